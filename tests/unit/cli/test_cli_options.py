"""Options are the configuration's fields, no more and no less."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from hardpoint.cli import cli
from hardpoint.cli.options import (
    SettingOption,
    SettingsCommand,
    config_from,
    engine_options,
    options_of,
    settings_from,
)
from hardpoint.config import EngineConfig
from hardpoint.config.engine import settings
from hardpoint.config.server import ServerConfig

made: dict[str, Any] = {}


@click.command(cls=SettingsCommand)
@click.option("--num-prompts", type=int, default=3)
@options_of(ServerConfig, "Server", leave_out=("uds",))
@engine_options(model_argument=True)
def command(num_prompts: int, **given: Any) -> None:
    made.update(engine=config_from(given), server=settings_from(ServerConfig, given), num_prompts=num_prompts)


def run(*arguments: str) -> EngineConfig:
    made.clear()
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    config: EngineConfig = made["engine"]
    return config


def refused(*arguments: str) -> str:
    made.clear()
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code != 0, result.output
    assert not made, "the command ran"
    return result.output + str(result.exception)


OPTIONS = [parameter for parameter in command.params if isinstance(parameter, SettingOption)]


def test_every_setting_has_exactly_one_option() -> None:
    expected = [setting.name for _, setting in settings()]
    expected += [field.name for field in dataclasses.fields(ServerConfig) if field.name != "uds"]
    assert Counter(option.name for option in OPTIONS) == Counter(expected)


def test_no_flag_means_two_settings() -> None:
    flags = Counter(flag for option in command.params for flag in (*option.opts, *option.secondary_opts))
    assert [flag for flag, count in flags.items() if count > 1] == []


def test_saying_nothing_gives_the_defaults() -> None:
    assert run() == EngineConfig()
    assert made["server"] == ServerConfig()
    assert made["num_prompts"] == 3


def text_of(setting: dataclasses.Field[Any]) -> tuple[str, Any]:
    """Return a value that is not the default, as a user types it and as the configuration holds it."""
    special = {"memory_fraction": ("0.5", 0.5), "num_blocks": ("99", 99)}
    if setting.name in special:
        return special[setting.name]
    if setting.metadata["choices"]:
        choice = next(c for c in setting.metadata["choices"] if c != setting.default)
        return choice, choice
    kinds = {
        "str": ("words", "words"),
        "int": ("7", 7),
        "tuple[str": ("a,b", ("a", "b")),
        "tuple[int": ("1,2", (1, 2)),
        "dict": ('{"a": "b"}', {"a": "b"}),
    }
    return next(pair for kind, pair in kinds.items() if str(setting.type).startswith(kind))


@pytest.mark.parametrize(("part", "setting"), list(settings()), ids=lambda value: getattr(value, "name", value))
def test_every_spelling_of_every_setting_sets_it(part: str, setting: dataclasses.Field[Any]) -> None:
    option = next(option for option in OPTIONS if option.name == setting.name)
    if option.is_flag:
        for flags, value in ((option.opts, True), (option.secondary_opts, False)):
            for flag in flags:
                assert getattr(getattr(run(flag), part), setting.name) is value
        return
    text, value = text_of(setting)
    for flag in option.opts:
        assert getattr(getattr(run(flag, text), part), setting.name) == value


def test_flags_of_vllm_mean_what_they_mean_there() -> None:
    config = run(
        *("org/model", "-tp", "2", "-q", "fp8", "--gpu-memory-utilization", "0.8", "--max-model-len", "32k"),
        *("--max-num-seqs", "8", "--no-enable-prefix-caching", "--kv-cache-memory-bytes", "2Gi", "--dtype", "bfloat16"),
        *("--hf-overrides", '{"rope_theta": 1e6}', "--served-model-name", "a", "--served-model-name", "b,c"),
    )
    assert config == EngineConfig.of(
        model="org/model",
        tensor_parallel_size=2,
        quantization="fp8",
        memory_fraction=0.8,
        max_model_len=32_000,
        max_num_seqs=8,
        enable_prefix_caching=False,
        kv_cache_memory=2 * 2**30,
        dtype="bfloat16",
        hf_overrides={"rope_theta": 1e6},
        served_model_name=("a", "b", "c"),
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("-tp", "two"), "tensor_parallel_size is 'two'; it must be a whole number"),
        (("--memory-fraction", "much"), "memory_fraction is 'much'; it must be a number"),
        (("--memory-fraction", "1.5"), "memory_fraction is 1.5; it must be above 0 and at most 1"),
        (("--kv-cache-memory", "2 lots"), "unit such as 512M"),
        (("--dtype", "float17"), "dtype is 'float17'; it must be one of auto, float32, bfloat16, float16"),
        (("--hf-overrides", "{"), "it must be a JSON object"),
        (("--hf-overrides", "[1]"), "it must be a JSON object"),
        (("--device-ids", "0,x"), "device_ids is ['0', 'x']; it must be a whole number"),
        (("--port", "99999"), "port is 99999"),
        (("--blok-size", "3"), "--block-size"),
        (("a", "--model", "b"), "the model is given twice, as 'a' and as --model 'b'"),
        (("--uds", "x"), "--uds"),
    ],
)
def test_a_wrong_value_is_told_with_its_reason(arguments: tuple[str, ...], told: str) -> None:
    assert told in refused(*arguments)


def test_the_model_may_be_given_both_ways_if_it_is_the_same() -> None:
    assert run("a", "--model", "a").model.model == "a"


def test_help_lists_settings_by_section() -> None:
    text = CliRunner().invoke(command, ["--help"]).output
    titles = ["Options:", "Server:", "Model:", "KV cache:", "Scheduler:", "Parallelism:", "Platform:", "Plugins:"]
    assert [line for line in text.splitlines() if line in titles] == titles
    assert "[default: 0.9]" in text


def write(path: Path, text: str) -> str:
    path.write_text(textwrap.dedent(text))
    return str(path)


FILE = """
    model: from/file
    port: 9000
    num-prompts: 7
    block-size: 64
    max_model_len: 4k
    enable-prefix-caching: false
    served-model-name: [a, b]
    allow_plugins: x,y
    hf-overrides: {rope_theta: 3}
    gpu-memory-utilization: 0.5
"""


def test_a_file_sets_what_options_set(tmp_path: Path) -> None:
    config = run("--config", write(tmp_path / "c.yaml", FILE))
    assert config == EngineConfig.of(
        model="from/file",
        block_size=64,
        max_model_len=4000,
        enable_prefix_caching=False,
        served_model_name=("a", "b"),
        allow_plugins=("x", "y"),
        hf_overrides={"rope_theta": 3},
        memory_fraction=0.5,
    )
    assert (made["server"].port, made["num_prompts"]) == (9000, 7)


def test_the_command_line_overrides_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", FILE)
    config = run("other/model", "--block-size", "16", "--config", path, "--enable-prefix-caching", "--port", "1")
    assert (config.model.model, config.cache.block_size, config.cache.enable_prefix_caching) == (
        "other/model",
        16,
        True,
    )
    assert config.model.max_model_len == 4000
    assert made["server"].port == 1
    assert run("--config", path, "--model", "third").model.model == "third"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("blok_size: 3", "there is no option 'blok_size'; did you mean 'block-size'?"),
        ("something-else-entirely: 3", "there is no option 'something-else-entirely'; see `command --help`"),
        ("- a\n- b", "holds list; it must hold options by name"),
        ("a: [", "c.yaml"),
        ("block-size: big", "block_size is 'big'; it must be a whole number"),
        ("config: other.yaml", "there is no option 'config'"),
    ],
)
def test_a_wrong_file_is_told_with_its_reason(tmp_path: Path, text: str, told: str) -> None:
    assert told in refused("--config", write(tmp_path / "c.yaml", text))


def test_a_missing_file_is_named() -> None:
    assert "nowhere.yaml" in refused("--config", "nowhere.yaml")


def test_a_yaml_tag_runs_nothing(tmp_path: Path) -> None:
    target = tmp_path / "made"
    path = write(tmp_path / "c.yaml", f"model: !!python/object/apply:os.mkdir [{json.dumps(str(target))}]")
    assert "could not determine a constructor" in refused("--config", path)
    assert not target.exists()


def test_underscores_in_flags_are_dashes() -> None:
    result = CliRunner().invoke(cli, ["plugins", "--prefer_plugins", '{"schedulers:x": "y"}', "--kind", "speculators"])
    assert result.exit_code == 0, result.output
