"""Where a model's files are: a local folder, or a hub repository."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from reward_plugin.errors import CheckpointError

#: What a model is made of. Neither code nor pickles are downloaded.
PATTERNS = ("*.json", "*.txt", "*.safetensors")
_REPOSITORY = re.compile(r"\w[\w.-]*/[\w.-]+")


def find_folder(path: str | Path, revision: str | None = None, patterns: Sequence[str] = PATTERNS) -> Path:
    """The local folder of a model.

    Args:
        path: a folder; or a hub id such as `owner/name`, which is taken from the local cache, or downloaded
            unless HF_HUB_OFFLINE is set.
        revision: branch, tag or commit of a hub id.
        patterns: names of the files that are downloaded.

    Raises:
        CheckpointError: neither a folder nor a repository that can be had, with what to do about it.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(f"{path}: is a file; a model is given as its folder")
    if isinstance(path, Path) or not _REPOSITORY.fullmatch(path):
        raise CheckpointError(f"{path}: no such folder; give a model folder or a hub id such as owner/name")
    return _download(path, revision, patterns)


def _download(repository: str, revision: str | None, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # the hub's own, those of its HTTP library, and those of the disk
        raise download_error(error, repository, revision) from error


def download_error(error: Exception, repository: str, revision: str | None = None) -> CheckpointError:
    """What `snapshot_download` raised, as one line that says what to do about it.

    The order of the cases matters: the hub's errors derive from each other (a gated repository is a kind of
    missing one, an incomplete cache a kind of missing file, and most of them are an OSError).
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    login = "run `hf auth login` or set HF_TOKEN"
    obtain = f"download it where there is network with `hf download {repository}` and give that folder"
    if isinstance(error, GatedRepoError):
        return CheckpointError(
            f"{repository}: gated, and the hub refused this account (HTTP {error.response.status_code}); "
            f"accept its terms on https://huggingface.co/{repository}, then {login}"
        )
    if isinstance(error, RevisionNotFoundError):
        return CheckpointError(f"{repository}: no revision {revision!r}; give a branch, tag or commit it has")
    if isinstance(error, RepositoryNotFoundError):
        return CheckpointError(
            f"{repository}: no such folder, and no such hub repository (if private: `hf auth login`)"
        )
    if isinstance(error, LocalEntryNotFoundError):
        partial = " completely" if getattr(error, "snapshot_path", None) else ""
        return CheckpointError(
            f"{repository}: no such folder, not{partial} in the local hub cache, and the hub cannot be "
            f"reached ({_first_line(error.__cause__ or error)}): {obtain}"
        )
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        remedy = login if status in (401, 403) else f"try again later, or {obtain}"
        return CheckpointError(f"{repository}: the hub answered with HTTP {status}; {remedy}")
    if isinstance(error, HFValidationError):
        return CheckpointError(f"{repository}: no such folder, and not a hub id ({_first_line(error)})")
    return CheckpointError(
        f"{repository}: the download failed ({_first_line(error)}); try again, or {obtain}"
    )


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}".rstrip(": ")
