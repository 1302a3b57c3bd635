"""Safetensors to parameters: mapped, sliced for the rank, copied once, straight into place."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from tqdm.auto import tqdm

from hardpoint.contract.errors import CheckpointError
from hardpoint.layers.parameters import Parameter, Piece, Source
from hardpoint.weights.repo import read_json

if TYPE_CHECKING:
    from hardpoint.layers.build import ModelBuild

_INDEX = "model.safetensors.index.json"
_LISTED = 10


def load_weights(build: ModelBuild, folder: Path, *, progress: bool = False) -> None:
    """Fill every parameter of a build from the safetensors files of a folder.

    A rank reads its own part of each tensor only. Elements are converted to the parameter's type on the way.

    Args:
        build: a model built on this rank.
        folder: a checkpoint: one file, or several with an index.
        progress: show a bar.

    Raises:
        CheckpointError: no safetensors, a missing or damaged file, tensors that are missing, not expected or of another
            shape than the configuration says.
    """
    with ExitStack() as stack:
        files = open_checkpoint(folder, stack)
        pieces = _choose(build.parameters, files, folder)
        _refuse_unexpected(files, build, folder)
        for piece in tqdm(
            _in_file_order(pieces, files), total=len(pieces), disable=not progress, desc="weights", unit="part"
        ):
            parts = [_read(source, files[source.name]) for source in piece.sources]
            piece.fill(*(parts if piece.convert is None else [part.to(build.device) for part in parts]))


def open_checkpoint(folder: Path, stack: ExitStack) -> dict[str, tuple[Path, Any]]:
    """Map a checkpoint's files; return tensor name -> (file, handle).

    Raises:
        CheckpointError: no safetensors, or a missing or damaged file.
    """
    index = folder / _INDEX
    names: Mapping[str, str] | None = None
    if index.exists():
        names = read_json(index).get("weight_map")
        if not isinstance(names, Mapping):
            raise CheckpointError(f"{index} has no weight_map; fetch the file again")
        paths = [folder / name for name in sorted(set(names.values()))]
        absent = [path.name for path in paths if not path.exists()]
        if absent:
            raise CheckpointError(
                f"{index.name} names {_list(absent)}, not in {folder}; the download is incomplete, fetch it again"
            )
    else:
        paths = _without_index(folder)
    files: dict[str, tuple[Path, Any]] = {}
    for path in paths:
        try:
            handle = stack.enter_context(safe_open(path, framework="pt", device="cpu"))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path} is damaged or cut short ({path.stat().st_size} bytes): {error}; fetch it again"
            ) from error
        files.update((name, (path, handle)) for name in handle.keys())  # noqa: SIM118 - the handle is no mapping
    if names is not None and (lost := sorted(set(names) - set(files))):
        raise CheckpointError(
            f"{index.name} lists {_list(lost)}, which its files do not hold; fetch the checkpoint again"
        )
    return files


def _without_index(folder: Path) -> list[Path]:
    single = folder / "model.safetensors"
    paths = [single] if single.exists() else sorted(folder.glob("*.safetensors"))
    if len(paths) == 1:
        return paths
    if paths:
        raise CheckpointError(f"{folder} has {len(paths)} safetensors files and no {_INDEX}; fetch the index")
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    if pickled:
        raise CheckpointError(
            f"{folder} has only pickled weights ({_list(pickled)}), which run code when they are read and are refused. "
            "Convert them where you trust them: AutoModelForCausalLM.from_pretrained(...).save_pretrained(folder)"
        )
    raise CheckpointError(f"{folder} has no *.safetensors file; fetch the weights, or use --load-format dummy")


def _choose(parameters: Iterable[Parameter], files: Mapping[str, Any], folder: Path) -> list[Piece]:
    """Return the pieces of each parameter's first way whose tensors all exist."""
    chosen: list[Piece] = []
    missing: list[str] = []
    for parameter in parameters:
        for way in parameter.alternatives:
            if all(source.name in files for piece in way for source in piece.sources):
                chosen.extend(way)
                break
        else:
            if not parameter.optional:
                missing.extend(_absent(parameter, files))
    if missing:
        unique = list(dict.fromkeys(missing))
        raise CheckpointError(
            f"{folder} lacks {len(unique)} tensors that the model needs: {_list(unique)}. "
            "The checkpoint is incomplete or is not of this architecture"
        )
    return chosen


def _absent(parameter: Parameter, files: Mapping[str, Any]) -> list[str]:
    """Return what is missing from the way that is nearest to complete."""
    ways = [[source.name for piece in way for source in piece.sources] for way in parameter.alternatives]
    missing = [[name for name in way if name not in files] for way in ways]
    nearest = min(range(len(ways)), key=lambda i: len(missing[i]) / len(ways[i]))
    return missing[nearest]


def _refuse_unexpected(files: Mapping[str, Any], build: ModelBuild, folder: Path) -> None:
    known = build.elsewhere | {
        source.name
        for parameter in build.parameters
        for way in parameter.alternatives
        for piece in way
        for source in piece.sources
    }
    ignored = [re.compile(pattern) for pattern in build.ignored]
    unknown = [name for name in files if name not in known and not any(p.search(name) for p in ignored)]
    if unknown:
        raise CheckpointError(
            f"{folder} has {len(unknown)} tensors that the model does not know: {_list(sorted(unknown))}. "
            "config.json and weights do not belong together, or the architecture is another one"
        )


def _in_file_order(pieces: Sequence[Piece], files: Mapping[str, tuple[Path, Any]]) -> Iterator[Piece]:
    """Yield pieces file by file, tensors as the file holds them, so that a disk is read from front to back."""
    by_file: dict[Path, list[Piece]] = defaultdict(list)
    for piece in pieces:
        by_file[files[piece.sources[0].name][0]].append(piece)
    for path in sorted(by_file):
        place = {name: at for at, name in enumerate(_offsets(path))}
        yield from sorted(by_file[path], key=lambda piece: place.get(piece.sources[0].name, 0))


def _offsets(path: Path) -> list[str]:
    """Return tensor names in the order of their data; the header was checked when the file was opened."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    entries = [(value["data_offsets"][0], name) for name, value in header.items() if name != "__metadata__"]
    return [name for _, name in sorted(entries)]


def _read(source: Source, found: tuple[Path, Any]) -> torch.Tensor:
    path, handle = found
    view = handle.get_slice(source.name)
    shape = tuple(view.get_shape())
    # Scales of one element or one column come with and without an axis for it.
    respelled = shape == (*source.shape, 1) or (*shape, 1) == source.shape
    if shape != source.shape and not respelled:
        raise CheckpointError(
            f"{source.name} in {path} has shape {list(shape)}; config.json asks for {list(source.shape)}"
        )
    try:
        part: torch.Tensor
        if respelled or not source.region:
            part = handle.get_tensor(source.name).reshape(source.shape)[source.region]
        else:
            part = view[source.region]
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged at {source.name}: {error}; fetch it again") from error
    return part


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
