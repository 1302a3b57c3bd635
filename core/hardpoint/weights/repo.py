"""From a model's name to its files and its configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hardpoint.contract.errors import CheckpointError, UnsupportedModelError
from hardpoint.weights.hub import RepoRef, download

if TYPE_CHECKING:
    from hardpoint.config import ModelConfig
    from hardpoint.plugins import Catalogue

#: The plugin that runs what no other plugin of kind ``models`` runs by name.
FALLBACK: Final = "transformers"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """A checkpoint on this machine.

    Attributes:
        folder: where its files are.
        name: what the user called it.
        architecture: as config.json names it, e.g. ``"LlamaForCausalLM"``.
        plugin: the plugin of kind ``models`` that runs it; ``"transformers"`` for the fallback.
        config: of the text decoder, standardised by the plugin: see :mod:`hardpoint.weights.standard`.
        raw: config.json with ``hf_overrides`` applied.
        generation_config: generation_config.json, or empty.
        ref: where it came from.
    """

    folder: Path
    name: str
    architecture: str
    plugin: str
    config: dict[str, Any]
    raw: dict[str, Any] = field(default_factory=dict)
    generation_config: dict[str, Any] = field(default_factory=dict)
    ref: RepoRef


def resolve(model: ModelConfig, catalogue: Catalogue) -> ModelFiles:
    """Find a model's files, download them if need be, and read its configuration.

    A folder comes before a bundled checkpoint, that before an id on the hub.

    Raises:
        CheckpointError: the files are not there, cannot be fetched, or config.json is damaged or incomplete.
        UnsupportedModelError: no installed plugin runs the architecture.
    """
    ref = RepoRef(id=model.model, revision=model.revision, trust=model.trust_remote_code)
    folder = _folder(ref, catalogue, weights=model.load_format != "dummy")
    raw = _merged(read_json(folder / "config.json", required=True), model.hf_overrides)
    architecture = _architecture(raw, folder)
    plugin = choose_plugin(architecture, model.model_impl, catalogue)
    standardise: Callable[[Mapping[str, Any], Path, bool], dict[str, Any]] | None
    standardise = catalogue.load("models", plugin).data.get("config")
    return ModelFiles(
        folder=folder,
        name=model.model,
        architecture=architecture,
        plugin=plugin,
        config=dict(raw) if standardise is None else standardise(raw, folder, ref.trust),
        raw=raw,
        generation_config=read_json(folder / "generation_config.json"),
        ref=ref,
    )


def choose_plugin(architecture: str, model_impl: str, catalogue: Catalogue) -> str:
    """Return the name of the plugin that runs an architecture.

    Raises:
        UnsupportedModelError: when there is none, with those that exist.
    """
    names = catalogue.names("models")
    native = architecture in names and architecture != FALLBACK
    if native and model_impl != "transformers":
        return architecture
    if model_impl != "native" and FALLBACK in names:
        return FALLBACK
    known = ", ".join(sorted(set(names) - {FALLBACK})) or "none"
    way_out = "use --model-impl auto" if FALLBACK in names else "install a plugin of kind 'models' that runs it"
    raise UnsupportedModelError(f"no plugin runs {architecture} natively (there are: {known}); {way_out}")


def read_json(path: Path, *, required: bool = False) -> dict[str, Any]:
    """Return a JSON object from a file; empty when there is no file and none is required.

    Raises:
        CheckpointError: when a required file is absent, or a file holds no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if not required:
            return {}
        found = ", ".join(sorted(entry.name for entry in path.parent.iterdir())[:8]) or "nothing"
        raise CheckpointError(
            f"{path.parent} has no {path.name} (it holds {found}); give the folder of a checkpoint as "
            "transformers' save_pretrained writes it, or a hub id"
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; fetch the file again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds {type(value).__name__}, not a JSON object; fetch the file again")
    return value


def _folder(ref: RepoRef, catalogue: Catalogue, *, weights: bool) -> Path:
    path = Path(ref.id).expanduser()
    if path.is_dir():
        return path
    if ref.id in catalogue.names("checkpoints"):
        bundled = Path(catalogue.create("checkpoints", ref.id))
        if not bundled.is_dir():
            raise CheckpointError(f"the bundled checkpoint {ref.id!r} is not at {bundled}; reinstall its package")
        return bundled
    if path.exists():
        raise CheckpointError(f"model {ref.id!r} is a file; give the folder that holds config.json")
    if path.is_absolute() or ref.id.startswith((".", "~")) or not _HUB_ID.fullmatch(ref.id):
        raise CheckpointError(
            f"model {ref.id!r}: there is no such folder, and it is no hub id (owner/name). "
            f"Bundled checkpoints: {', '.join(catalogue.names('checkpoints')) or 'none'}"
        )
    return download(ref, weights=weights)


def _merged(raw: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Replace values by overrides; nested configurations (``text_config``) are merged, all else is replaced."""
    merged = dict(raw)
    for name, value in overrides.items():
        old = merged.get(name)
        if name.endswith("_config") and isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[name] = _merged(old, value)
        else:
            merged[name] = value
    return merged


def _architecture(raw: Mapping[str, Any], folder: Path) -> str:
    names = raw.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str):
        return names[0]
    raise CheckpointError(
        f"{folder / 'config.json'} names no architecture ({names!r}); add it, for example with "
        '--hf-overrides \'{"architectures": ["LlamaForCausalLM"]}\''
    )
