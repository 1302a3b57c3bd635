"""``plugins``, ``env`` and ``explain``: what they say of good and of broken plugins."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from hardpoint.cli import cli
from hardpoint.cli.explain import ranges, show
from hardpoint.cli.render import size
from throwaway import Site

ALL = ("--allow-plugins", "*")


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def listed(*arguments: str, code: int = 0) -> dict[str, dict[str, Any]]:
    lines = json.loads(run("plugins", "--json", "--kind", "schedulers", *arguments, code=code))
    return {line["name"]: line for line in lines if line["distribution"] != "hardpoint"}


@pytest.fixture
def path(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Make the throwaway site visible to child processes too."""
    monkeypatch.setenv("PYTHONPATH", str(site.path))
    return site


def test_the_list_shows_states_and_reasons_and_imports_nothing(path: Site, policy: Callable[..., str]) -> None:
    policy("vendor-x", "blocked", head="raise SystemError\n")
    policy("vendor-y", "tidy", head="raise SystemError\n")
    policy("vendor-z", "tidy", head="raise SystemError\n")
    lines = listed("--allow-plugins", "vendor-y,vendor-z")
    assert lines["blocked"]["state"] == "blocked"
    assert "--allow-plugins vendor-x" in lines["blocked"]["reason"]
    assert lines["tidy"]["state"] == "conflict"
    table = run("plugins", "--allow-plugins", "vendor-y")
    assert [line.split()[:4] for line in table.splitlines() if "vendor-y" in line] == [
        ["schedulers", "tidy", "available", "vendor-y"]
    ]
    assert table.splitlines()[0].split() == ["KIND", "NAME", "STATE", "DISTRIBUTION", "VERSION", "TARGET", "REASON"]


def test_a_check_tells_working_from_broken_crashing_and_hanging(path: Site, policy: Callable[..., str]) -> None:
    policy(
        "vendor-a",
        "works",
        body="print('noise on stdout')\nclass Policy:\n    name = 'x'\n    def key(self, request): ...",
    )
    policy("vendor-b", "raises", head="raise ImportError('libb.so missing')\n")
    policy("vendor-c", "crashes", body="import os, sys; print('last words', file=sys.stderr, flush=True); os._exit(7)")
    policy("vendor-d", "hangs", body="import time; time.sleep(60)")
    policy("vendor-e", "lacks", body="class Policy:\n    name = 'x'")
    lines = listed(*ALL, "--check", "--timeout", "3", code=1)
    assert {name: line["state"] for name, line in lines.items()} == {
        "works": "works", "raises": "broken", "crashes": "broken", "hangs": "broken", "lacks": "broken",
    }  # fmt: skip
    assert lines["raises"]["reason"] == "ImportError: libb.so missing"
    assert lines["crashes"]["reason"] == "its process ended with exit status 7: last words"
    assert lines["hangs"]["reason"] == "no answer within 3 s"
    assert "key(request) is missing" in lines["lacks"]["reason"]
    assert lines["works"]["seconds"] < 3
    assert "SECONDS" in run("plugins", "--kind", "speculators", "--check")


def test_one_crash_does_not_keep_its_neighbours_from_being_checked(path: Site) -> None:
    code = "class Policy:\n    name = 'x'\n    def key(self, request): ..."
    descriptors = "from hardpoint.contract.descriptor import Descriptor\n" + "".join(
        f"{name.upper()} = Descriptor(kind='schedulers', name={name!r}, contract=(1, 0), implementation='pack_{name}:Policy')\n"
        for name in ("a", "b", "c")
    )
    bodies = {"pack_a": code, "pack_b": "import os; os.abort()", "pack_c": code}
    path.add("pack", {"pack": descriptors, **bodies}, {"schedulers": {n: f"pack:{n.upper()}" for n in ("a", "b", "c")}})
    lines = listed(*ALL, "--check", code=1)
    assert {name: line["state"] for name, line in lines.items()} == {"a": "works", "b": "broken", "c": "works"}
    assert "signal 6" in lines["b"]["reason"]


def test_a_blocked_plugin_is_not_checked(path: Site, policy: Callable[..., str]) -> None:
    policy(head="import pathlib; pathlib.Path(__file__).with_suffix('.ran').touch()\n")
    assert listed("--check")["tidy"]["state"] == "blocked"
    assert list(path.path.glob("*.ran")) == []


def test_our_own_plugins_all_work() -> None:
    lines = json.loads(run("plugins", "--check", "--json"))
    faults = {f"{line['kind']}:{line['name']}": line["reason"] for line in lines if line["state"] == "broken"}
    assert faults == {}
    assert any(line["kind"] == "platforms" and line["state"] == "works" and line["devices"] for line in lines)


def test_env_says_what_a_report_needs() -> None:
    facts = json.loads(run("env", "--json"))
    assert set(facts) == {"python", "system", "packages", "machine", "platforms"}
    assert {"hardpoint", "torch", "transformers", "pluggy"} <= set(facts["packages"])
    assert facts["machine"]["memory_total"] >= facts["machine"]["memory_available"] > 0
    assert 0 < facts["machine"]["usable_cores"] <= facts["machine"]["logical_cores"]
    assert any(platform["state"] == "works" for platform in facts["platforms"])
    text = run("env")
    for word in ("Machine", "Packages", "Platforms", facts["python"], facts["packages"]["torch"]):
        assert word in text


FACTS: dict[str, Any] = {
    "model": "tiny",
    "max_model_len": 64,
    "vocab_size": 100,
    "num_blocks": 9,
    "block_size": 16,
    "description": {
        "platform": "npu",
        "device": "NPU 3",
        "arch": "v3",
        "platforms_refused": {"cpu": "'npu' comes first", "xpu": "ImportError: libx.so [missing]"},
        "adjustments": [
            {"field": "cache.block_size", "old": None, "new": 16, "plugin": "npu", "reason": "the kernel reads 16 rows"}
        ],
        "ops": [{"op": "rms_norm", "provider": "reference", "reason": "fast: no float32"}],
        "attention": [
            {
                "layers": [0, 1, 3],
                "backend": "paged",
                "refused": {"flash": ["head size 24", "float32"]},
                "window": 32,
                "head_size": 24,
                "heads": 4,
                "kv_heads": 2,
                "kv_dtype": "float32",
                "block_size": 16,
            }
        ],
        "model": {
            "architecture": "LlamaForCausalLM",
            "implementation": "llama",
            "weights": "random",
            "dtype": "float32",
            "quantization": None,
            "linear_kernels": {"dense": 14},
            "linear_kernels_refused": {"int8": ["weights are not int8"]},
        },
        "kv": {"groups": [{"window": None, "layers": [2]}, {"window": 32, "layers": [0, 1, 3]}]},
        "memory": [["weights", 3 * 2**20]],
    },
}


def test_explain_shows_every_choice_and_every_refusal() -> None:
    text = StringIO()
    show(Console(file=text, width=200), FACTS)
    rows = [" ".join(line.split()) for line in text.getvalue().splitlines()]
    for row in (
        "npu chosen NPU 3 v3",
        "cpu not chosen 'npu' comes first",
        "xpu not chosen ImportError: libx.so [missing]",
        "cache.block_size None 16 npu the kernel reads 16 rows",
        "rms_norm reference fast: no float32",
        "0-1, 3 window 32, 4 heads of 24, 2 for keys, float32 paged accepted",
        "0-1, 3 window 32, 4 heads of 24, 2 for keys, float32 flash refused head size 24; float32",
        "dense used 14 layers",
        "int8 refused weights are not int8",
        "0 full 2",
        "1 window 32 0-1, 3",
        "weights 3.0 MiB",
        "cache 9 blocks of 16 tokens, shared by the groups",
    ):
        assert row in rows, f"{row!r} is not among\n" + "\n".join(rows)


def test_explain_of_a_runner_that_describes_little_still_shows_it() -> None:
    text = StringIO()
    show(Console(file=text, width=200), FACTS | {"description": {"platform": "blackbox"}})
    assert "blackbox" in text.getvalue()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    from hardpoint.testing.tiny_models import make_tiny

    return str(make_tiny("Gemma3ForCausalLM", tmp_path_factory.mktemp("tiny")))


def test_explain_of_a_model_says_who_changed_what(tiny: str) -> None:
    facts = json.loads(run("explain", tiny, "--json", "--kv-cache-memory", "8M", "--block-size", "8"))
    description = facts["description"]
    changed = {a["field"]: (a["plugin"], a["new"]) for a in description["adjustments"]}
    assert changed["platform.platform"] == ("hardpoint", "cpu")
    assert changed["scheduler.max_num_batched_tokens"][0] == "cpu"
    assert "cache.block_size" not in changed, "what the user chose counts as adjusted"
    assert facts["block_size"] == 8
    assert {op["op"] for op in description["ops"]} >= {"rms_norm", "qk_norm_rope", "embed"}
    assert sorted(n for entry in description["attention"] for n in entry["layers"]) == [0, 1, 2]
    assert {entry["window"] for entry in description["attention"]} == {16, None}
    assert sum(description["model"]["linear_kernels"].values()) > 0
    memory = dict(description["memory"])
    assert memory["weights"] == description["model"]["weight_bytes"] > 0
    show(Console(file=StringIO()), facts)


def test_explain_of_what_cannot_run_says_why(tiny: str) -> None:
    text = run("explain", tiny, "--max-model-len", "100k", code=2)
    assert "--max-model-len 100000 is longer than the model's context" in text
    text = run("explain", tiny, "--attention-backend", "no_such", code=2)
    assert "attention_backends plugin 'no_such'" in text
    text = run("explain", tiny, "--platform", "cpuu", code=2)
    assert "Did you mean 'cpu'?" in text
    text = run("explain", tiny, "--scheduling-policy", "random", code=2)
    assert "schedulers plugin 'random'" in text


@pytest.mark.parametrize(("numbers", "text"), [([], ""), ([5], "5"), ([3, 1, 2, 7, 8], "1-3, 7-8")])
def test_runs_of_layers_are_joined(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text


@pytest.mark.parametrize(
    ("count", "text"), [(None, "?"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**40 * 3000, "3000.0 TiB")]
)
def test_sizes_are_read_easily(count: int | None, text: str) -> None:
    assert size(count) == text
