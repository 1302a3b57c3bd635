"""Command-line options made from configuration fields. No option of a setting is written by hand.

A subcommand takes all engine settings like this::

    @click.command(cls=SettingsCommand)
    @engine_options(model_argument=True)
    def explain(**given: Any) -> None:
        config = config_from(given)
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from click.core import ParameterSource

from hardpoint.config import EngineConfig
from hardpoint.config.engine import PARTS, coerce, names, settings, type_of
from hardpoint.contract.errors import ConfigError

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_POSITIONAL: Final = "model_argument"
_METAVARS: Final = {int: "N", float: "X", str: "TEXT"}
_TITLES: Final = {
    "model": "Model",
    "cache": "KV cache",
    "scheduler": "Scheduler",
    "parallel": "Parallelism",
    "platform": "Platform",
    "plugins": "Plugins",
}


class SettingOption(click.Option):
    """The option of one configuration field. Its value is ``None`` where the user did not speak.

    Args:
        setting: the field, made by :func:`hardpoint.config.parts.setting`.
        owner: the class that holds it.
        section: heading in the help text.
    """

    def __init__(self, setting: dataclasses.Field[Any], owner: type, section: str) -> None:
        self.setting, self.owner, self.section = setting, owner, section
        kind, _ = type_of(setting, owner)
        self._many = typing.get_origin(kind) is tuple
        boolean = kind is bool
        super().__init__(
            [*_flags(setting, boolean), setting.name],
            is_flag=boolean,
            multiple=self._many,
            default=None,
            type=click.BOOL if boolean else click.UNPROCESSED,
            metavar=None if boolean else _metavar(setting, kind, self._many),
            help=setting.metadata["help"] + _default_text(setting),
        )

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """Turn text into the setting's type."""
        value = super().process_value(ctx, value)
        if value is None or (self._many and not value):
            return None
        if self._many:
            value = [part.strip() for item in value for part in str(item).split(",")]
        try:
            return coerce(self.setting, value, self.owner)
        except ConfigError as error:
            raise click.BadParameter(str(error), ctx=ctx, param=self) from error


def _flags(setting: dataclasses.Field[Any], boolean: bool) -> list[str]:
    spellings = [setting.metadata["flag"] or setting.name, *names(setting)]
    long = dict.fromkeys("--" + spelling.replace("_", "-") for spelling in spellings)
    flags = [f"{flag}/--no-{flag[2:]}" if boolean else flag for flag in long]
    short = setting.metadata["short"]
    return [f"-{short}", *flags] if short else flags


def _metavar(setting: dataclasses.Field[Any], kind: Any, many: bool) -> str:
    if setting.metadata["choices"]:
        return "[" + "|".join(setting.metadata["choices"]) + "]"
    if many:
        item = _METAVARS[typing.get_args(kind)[0]]
        return f"{item}[,{item}...]"
    return _METAVARS.get(kind, "JSON")


def _default_text(setting: dataclasses.Field[Any]) -> str:
    default = setting.default
    if default is dataclasses.MISSING or default is None or default in ((), "") or setting.name == "model":
        return ""
    return f"  [default: {str(default).lower() if isinstance(default, bool) else default}]"


class SettingsCommand(click.Command):
    """A command whose help lists its own options first, then the settings by section."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Option) and (record := parameter.get_help_record(ctx)):
                title = parameter.section if isinstance(parameter, SettingOption) else "Options"
                sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def options_of(kind: type, section: str, leave_out: tuple[str, ...] = ()) -> Callable[[F], F]:
    """Return a decorator that adds an option for every field of a settings class, e.g. ``ServerConfig``.

    The command gets each as a keyword argument, ``None`` where the user did not speak; :func:`settings_from` makes the
    object.
    """
    made = [SettingOption(s, kind, section) for s in dataclasses.fields(kind) if s.name not in leave_out]
    return lambda function: _with(function, made)


def engine_options(*, model_argument: bool = False, leave_out: tuple[str, ...] = ()) -> Callable[[F], F]:
    """Return a decorator that adds ``--config`` and an option for every engine setting.

    The command gets each setting as a keyword argument; :func:`config_from` makes the configuration.

    Args:
        model_argument: whether the model may also be given as ``MODEL``, without a flag.
        leave_out: settings that the command decides itself.
    """

    def decorate(function: F) -> F:
        made: list[click.Parameter] = [
            SettingOption(s, PARTS[part], _TITLES[part]) for part, s in settings() if s.name not in leave_out
        ]
        made.insert(
            0,
            click.Option(
                ["--config"],
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                is_eager=True,
                expose_value=False,
                callback=_read_file,
                help="YAML file with options by their names; what is given on the command line overrides it.",
            ),
        )
        if model_argument:
            made.append(click.Argument([_POSITIONAL], metavar="[MODEL]", required=False))
        return _with(function, made)

    return decorate


def _with(function: F, parameters: list[Any]) -> F:
    # click's decorators run from the bottom up and collect parameters in reverse in this attribute.
    kept: list[click.Parameter] = getattr(function, "__click_params__", [])
    function.__click_params__ = [*kept, *reversed(parameters)]  # type: ignore[attr-defined]
    return function


def config_from(given: Mapping[str, Any]) -> EngineConfig:
    """Make the configuration from a command's keyword arguments; those that are no engine settings are left alone.

    Raises:
        ConfigError: for a value that cannot be served, or two different models.
    """
    flat = {s.name: given[s.name] for _, s in settings() if given.get(s.name) is not None}
    named = given.get(_POSITIONAL)
    if named is not None:
        context = click.get_current_context(silent=True)
        flagged = context is not None and context.get_parameter_source("model") is ParameterSource.COMMANDLINE
        if flagged and flat["model"] != named:
            raise ConfigError(f"the model is given twice, as {named!r} and as --model {flat['model']!r}; leave one out")
        flat["model"] = named
    return EngineConfig.of(**flat)


def settings_from(kind: type[T], given: Mapping[str, Any]) -> T:
    """Make a settings object of ``kind`` from a command's keyword arguments; others are left alone.

    Raises:
        ConfigError: for a value that cannot be served.
    """
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(kind)  # type: ignore[arg-type]
    return kind(**{field.name: given[field.name] for field in fields if given.get(field.name) is not None})


def _read_file(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--config {path}: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"--config {path} holds {type(found).__name__}; it must hold options by name, 'port: 8000'")
    known = {flag: option for option in context.command.params for flag in _spellings(option)}
    defaults: dict[str, Any] = {}
    for key, value in found.items():
        option = known.get(str(key).replace("_", "-"))
        if option is None:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; see `{context.command_path} --help`"
            raise ConfigError(f"--config {path}: there is no option {str(key)!r}{hint}")
        if option.multiple and not isinstance(value, list):
            value = [value]
        defaults[str(option.name)] = json.dumps(value) if isinstance(value, dict) else value
    context.default_map = {**(context.default_map or {}), **defaults}


def _spellings(option: click.Parameter) -> Iterator[str]:
    if isinstance(option, click.Option) and option.expose_value:
        for flag in option.opts:
            yield flag.lstrip("-")
