"""The Hugging Face hub, where a model's id is not a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hardpoint.contract.errors import CheckpointError

_TEXT: Final = ("*.json", "*.jinja", "*.txt", "*.model")
_WEIGHTS: Final = ("*.safetensors", "*.safetensors.index.json")
_CODE: Final = ("*.py",)
_NEVER: Final = ("original/*", "consolidated*", "metal/*", "onnx/*")


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoRef:
    """Which files of whom, and whether their code may run. Every load goes through one of these.

    Attributes:
        id: folder, bundled name or hub id.
        revision: branch, tag or commit on the hub; ``None`` is the main branch.
        trust: whether Python code of the repository may run. Requests never set it.
    """

    id: str
    revision: str | None = None
    trust: bool = False


def download(ref: RepoRef, *, weights: bool = True) -> Path:
    """Return the local snapshot of a hub repository, fetching what is missing.

    Only configuration, tokenizer and safetensors are fetched; Python code only when it is trusted.

    Raises:
        CheckpointError: with what to do when the repository is unknown, closed, or out of reach.
    """
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    patterns = (*_TEXT, *(_WEIGHTS if weights else ()), *(_CODE if ref.trust else ()))
    try:
        return Path(
            snapshot_download(
                ref.id, revision=ref.revision, allow_patterns=list(patterns), ignore_patterns=list(_NEVER)
            )
        )
    except GatedRepoError as error:
        raise CheckpointError(
            f"{ref.id!r} on the hub is open only to those who accepted its terms: accept them on its page, "
            "then run `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(
            f"{ref.id!r} on the hub has no revision {ref.revision!r}; see its branches and tags"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"there is no folder {ref.id!r} and no such repository on the hub (or it is private: `hf auth login`)"
        ) from error
    except (LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        raise CheckpointError(
            f"{ref.id!r} is no folder and not in the hub's cache, and the hub cannot be reached ({_first_line(error)}); "
            "check the network, or download it elsewhere and give the folder"
        ) from error
    except HFValidationError as error:
        raise CheckpointError(f"{ref.id!r} is neither a folder nor a hub id: {_first_line(error)}") from error
    except HfHubHTTPError as error:
        raise CheckpointError(f"the hub refused {ref.id!r}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
