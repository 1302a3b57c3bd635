"""Which attention backend serves a layer: reasons first, then the user's words, then measured times."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from hardpoint.config import EngineConfig
from hardpoint.contract.attention import AttentionLayerConfig, AttentionQuery
from hardpoint.contract.errors import ConfigError
from hardpoint.runner.attention_choice import AttentionChoice
from hardpoint.runner.attention_timing import AttentionTimings
from hardpoint.runner.split_attention import SplitAttention
from hardpoint.testing.conformance.attention import AttentionCase, check_attention
from hardpoint.testing.reference_attention import ReferenceAttention, ReferenceLayer
from hardpoint_cpu.platform import CpuPlatform

LAYER = AttentionLayerConfig(layer=0, num_heads=4, num_kv_heads=2, head_size=16, scale=0.25)


class Named(ReferenceAttention):
    """The reference under another name, which notes what it attends to."""

    def __init__(self, name, reasons=(), seen=None, swapped=False):
        self.name, self.reasons, self.seen, self.swapped = name, list(reasons), seen, swapped

    def reject(self, query):
        return self.reasons

    def layout(self, spec, block_size, num_blocks):
        layout = super().layout(spec, block_size, num_blocks)
        return replace(layout, shape=layout.shape[::-1]) if self.swapped else layout

    def layer(self, config, block_size):
        seen = self.seen

        class Layer(ReferenceLayer):
            def forward(self, q, kv, plan, sinks):
                if seen is not None:
                    seen.append((plan.num_decodes, plan.num_requests))
                return super().forward(q, kv, plan, sinks)

        return Layer(config, block_size)


@pytest.fixture(scope="module")
def device():
    return CpuPlatform().open(0, EngineConfig.of(threads=1))


@pytest.fixture
def choose(device, monkeypatch):
    """Make a choice between backends, with times in microseconds by (part, name)."""

    def make(*backends, times=None, **settings):
        by_name = {backend.name: backend for backend in backends}
        catalogue = SimpleNamespace(
            create=lambda kind, name: by_name[name], load=lambda kind, name: SimpleNamespace(requires=())
        )
        platform = SimpleNamespace(name="fake", attention_backends=lambda: tuple(by_name))

        def compare(self, backends, query, part):
            if times is None:
                raise AssertionError("nothing is to be measured")
            found = {name: times[part, name] for name in backends}
            failures = {name: value for name, value in found.items() if isinstance(value, Exception)}
            return {name: value * 1e-6 for name, value in found.items() if name not in failures}, failures

        monkeypatch.setattr(AttentionTimings, "compare", compare)
        return AttentionChoice(EngineConfig.of(**settings), catalogue, platform, device, "float32")

    return make


def both(a, b):
    return {("prefill", "a"): a[0], ("decode", "a"): a[1], ("prefill", "b"): b[0], ("decode", "b"): b[1]}


def picked(choice):
    choice(LAYER)
    (entry,) = choice.describe()
    return entry


def test_one_that_accepts_is_taken_without_measuring(choose):
    entry = picked(choose(Named("a", ["knows no heads of 16"]), Named("b")))
    assert entry["backend"] == "b"
    assert entry["refused"] == {"a": ["knows no heads of 16"]}


@pytest.mark.parametrize(
    ("a", "b", "backend"),
    [
        ((100, 10), (50, 5), "b"),
        ((100, 10), (90, 9), "a"),
        ((50, 10), (100, 5), "a for prompts, b for decodes"),
        ((100, 5), (50, 5), "b"),
    ],
    ids=["faster", "not worth a change", "apart", "one for both where it loses nothing"],
)
def test_the_faster_one_serves(choose, a, b, backend):
    entry = picked(choose(Named("a"), Named("b"), times=both(a, b)))
    assert entry["backend"] == backend
    assert f"prompts a {a[0]}, b {b[0]}" in entry["why"]


def test_without_measurement_the_platforms_first_serves(choose):
    entry = picked(choose(Named("a"), Named("b"), measure_attention=False))
    assert entry["backend"] == "a"
    assert "--no-measure-attention" in entry["why"]


def test_layouts_that_differ_are_never_mixed(choose):
    times = both((50, 10), (100, 2))
    assert picked(choose(Named("a"), Named("b", swapped=True), times=times))["backend"] == "b"
    with pytest.raises(ConfigError, match=r"a lays the cache out as .* b as .*--attention-backend"):
        picked(
            choose(Named("a"), Named("b", swapped=True), prefill_attention_backend="a", decode_attention_backend="b")
        )


def test_flags_name_a_backend_per_part(choose):
    entry = picked(choose(Named("a"), Named("b"), attention_backend="a", decode_attention_backend="b"))
    assert entry["backend"] == "a for prompts, b for decodes"
    entry = picked(choose(Named("a"), Named("b"), prefill_attention_backend="b", times=both((1, 1), (2, 2))))
    assert entry["backend"] == "b for prompts, a for decodes"


def test_one_that_fails_when_tried_is_left_out_with_its_reason(choose):
    times = both((1, 1), (2, 2)) | {("decode", "a"): RuntimeError("no kernel image")}
    entry = picked(choose(Named("a"), Named("b"), times=times))
    assert entry["backend"] == "b"
    assert entry["refused"] == {"a": ["failed when it was tried: RuntimeError: no kernel image"]}


def test_all_reasons_of_all_are_told(choose):
    with pytest.raises(ConfigError, match=r"layer 0 .*a: one, two; b: three"):
        picked(choose(Named("a", ["one", "two"]), Named("b", ["three"])))


@pytest.mark.parametrize("decodes", [0, 2, 4])
def test_a_split_step_is_attended_in_its_parts(device, decodes):
    requests = ((20, 1), (33, 1), (40, 7) if decodes < 4 else (40, 1), (16, 16) if decodes < 4 else (9, 1))
    seen = {"a": [], "b": []}
    backend = SplitAttention(Named("a", seen=seen["a"]), Named("b", seen=seen["b"]))
    check_attention(backend, device, AttentionCase(label="split", requests=requests, decodes=decodes))
    assert all(of == 0 for of, _ in seen["a"])
    assert all(of == total for of, total in seen["b"])
    assert bool(seen["a"]) == (decodes < 4)
    assert bool(seen["b"]) == (decodes > 0)


def test_times_are_measured_once_and_kept(device, tmp_path):
    query = AttentionQuery(
        head_size=16, num_heads=2, num_kv_heads=1, dtype="float32", kv_dtype="float32", block_size=16, arch="x"
    )
    path = tmp_path / "deep" / "attention.json"
    seen = []
    pair = {"a": Named("a", seen=seen), "b": Named("b")}
    first, failures = AttentionTimings(device, ("torch",), path).compare(pair, query, "decode")
    calls = len(seen)
    assert first.keys() == {"a", "b"}
    assert min(first.values()) > 0
    assert not failures
    assert calls > 0
    assert AttentionTimings(device, ("torch",), path).compare(pair, query, "decode") == (first, {})
    assert len(seen) == calls
    # Other versions, other candidates, a damaged file: all are measured anew.
    AttentionTimings(device, (), path).compare(pair, query, "decode")
    assert len(seen) > calls
    assert len(json.loads(path.read_text())) == 2
    AttentionTimings(device, ("torch",), path).compare({"a": pair["a"]}, query, "decode")
    assert len(json.loads(path.read_text())) == 3
    path.write_text("no json")
    assert AttentionTimings(device, ("torch",), path).compare(pair, query, "decode")[0].keys() == {"a", "b"}


def test_one_that_fails_is_no_time_and_is_not_kept(device, tmp_path):
    class Broken(Named):
        def layer(self, config, block_size):
            raise RuntimeError("no kernel image")

    query = AttentionQuery(
        head_size=16, num_heads=2, num_kv_heads=1, dtype="float32", kv_dtype="float32", block_size=16, arch="x"
    )
    path = tmp_path / "attention.json"
    times, failures = AttentionTimings(device, (), path).compare({"a": Named("a"), "b": Broken("b")}, query, "decode")
    assert times.keys() == {"a"}
    assert str(failures["b"]) == "no kernel image"
    assert not path.exists()
