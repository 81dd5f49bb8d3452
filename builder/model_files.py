"""A model id or directory in, the files of one fixed revision out, safetensors only.

Everything that must be known of a model before it is loaded: where it lies, what it is
called in the manifest, the hash of its weights, the width of its embeddings.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from builder.config import DEFAULT_MODEL, DEFAULT_MODEL_REVISION
from builder.types import InputError
from builder.write import hash_file

PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of one model."""

    directory: Path
    name: str
    """The Hub id, or the name of the directory; never a path."""
    revision: str | None
    """The commit of the Hub repository; None for a directory."""
    weights_sha256: dict[str, str]
    """sha256 of every weights file by its name."""
    width: int
    """Columns of the embeddings: `projection_dim` of the model's configuration."""


def find_model(model: str, revision: str | None) -> ModelFiles:
    """Return the files of a local directory, or of a Hub repository after a download.

    Raises:
        InputError: there is no such model, or it is none that can be used here.
    """
    directory = Path(model)
    if directory.is_dir():
        return read_model_directory(directory, directory.resolve().name, None)
    if directory.exists() or model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise InputError(f"--model {model}: is not a directory, and no Hub id (OWNER/NAME) either")
    if revision is None and model == DEFAULT_MODEL:
        revision = DEFAULT_MODEL_REVISION
    directory = download_model(model, revision)
    # The Hub's cache names a snapshot's folder after its commit.
    return read_model_directory(directory, model, directory.name)


def download_model(model: str, revision: str | None) -> Path:
    """Download the configuration and the safetensors weights of a Hub repository."""
    shown = f"--model {model}" + (f" --revision {revision}" if revision else "")
    try:
        snapshot = snapshot_download(
            model, revision=revision, allow_patterns=["*.json", "*.txt", "*.safetensors"]
        )
    except GatedRepoError as error:
        raise InputError(
            f"{shown}: the repository is gated; ask for access, set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"{shown}: the repository has no such revision") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InputError(
            f"{shown}: no such directory, and no such repository on the Hub "
            "(or a private one that HF_TOKEN does not open)"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise InputError(
            f"{shown}: no such directory, and the Hub does not answer; "
            "give a local directory with the model's files"
        ) from error
    directory = Path(snapshot)
    if not list(directory.glob("*.safetensors")):
        raise InputError(f"{shown}: holds no safetensors weights{suggest_conversion(model)}")
    return directory


def suggest_conversion(model: str) -> str:
    """Name the pull request with a repository's safetensors conversion, where there is one."""
    try:
        discussions = HfApi().get_repo_discussions(
            model, author="SFconvertbot", discussion_type="pull_request"
        )
        numbers = [discussion.num for discussion in discussions]
    except (HfHubHTTPError, OSError):
        return ""
    return f"; its conversion may be --revision refs/pr/{numbers[0]}" if numbers else ""


def read_model_directory(directory: Path, name: str, revision: str | None) -> ModelFiles:
    """Check a directory's files and hash its weights."""
    config = read_config(directory, name)
    weights = find_weights(directory, name)
    vision = config.get("vision_config") or config
    width = vision.get("projection_dim", config.get("projection_dim"))
    if not isinstance(width, int):
        raise InputError(f"model {name}: config.json gives no projection_dim")
    hashes = {path.name: hash_file(path) for path in weights}
    return ModelFiles(directory, name, revision, hashes, width)


def read_config(directory: Path, name: str) -> dict[str, Any]:
    """Return config.json of a CLIP model."""
    path = directory / "config.json"
    if not path.is_file():
        raise InputError(f"model {name}: the directory holds no config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"model {name}: config.json is not JSON") from error
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if model_type not in ("clip", "clip_vision_model"):
        raise InputError(
            f"model {name}: config.json says model_type {model_type!r}; "
            "a CLIP model (clip, clip_vision_model) is needed"
        )
    return dict(config)


def find_weights(directory: Path, name: str) -> list[Path]:
    """Return the weights files in name order: one, or the shards that the index names."""
    single = directory / "model.safetensors"
    if single.is_file():
        return [single]
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        shards = [directory / shard for shard in sorted(names)]
        absent = [shard.name for shard in shards if not shard.is_file()]
        if absent:
            raise InputError(f"model {name}: weights file {absent[0]} is missing")
        return shards
    pickled = sorted(p.name for p in directory.iterdir() if p.suffix in PICKLED_SUFFIXES)
    if pickled:
        raise InputError(
            f"model {name}: holds only pickled weights ({pickled[0]}), which can run code when "
            "they are loaded; convert them to model.safetensors"
        )
    raise InputError(f"model {name}: the directory holds no weights (model.safetensors)")
