"""Finds the files of a model at one fixed revision, and learns what must be known before it loads.

That is its name in the manifest, the hashes of its weights, and the sizes of its pictures and
embeddings. Weights must be safetensors: pickled ones can run code when they are loaded.
"""

import math
import os
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
from safetensors import SafetensorError, safe_open

from clip_kinetics700.schema import parse_json
from clip_kinetics700_builder.config import DEFAULT_MODEL, DEFAULT_MODEL_REVISION
from clip_kinetics700_builder.decode.preprocess import Preprocessing
from clip_kinetics700_builder.system.files import CANNOT_WRITE, hash_file
from clip_kinetics700_builder.types import InputError

PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
PREPROCESSOR_FILE = "preprocessor_config.json"
PIL_RESAMPLE_NAMES = {2: "bilinear", 3: "bicubic"}
# The values that transformers takes where config.json gives none.
DEFAULT_PROJECTION_DIM = 512
DEFAULT_IMAGE_SIZE = 224
# Neither pictures nor embeddings of any CLIP are larger: no wrong number costs memory.
MAX_SIZE = 4096
# Pixels are bytes; models take them as they are, from 0 to 1 or from 0 to 2.
MAX_RESCALE_FACTOR = 1.0


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
    weights_nbytes: int
    """Bytes of these files together."""
    width: int
    """Columns of the embeddings: `projection_dim` of the model's configuration."""
    image_size: int
    """Height and width of the pictures that the vision tower takes, pixels."""


def find_model(model: str, revision: str | None) -> ModelFiles:
    """Return the files of a local directory, or download those of a Hub repository.

    Raises:
        InputError: there is no such model, or it cannot be used here.
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
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno in CANNOT_WRITE:
            raise InputError(
                f"{shown}: the Hub's cache cannot be written: {error.filename}: "
                f"{os.strerror(error.errno or 0)}; set HF_HOME to another directory"
            ) from error
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
    vision = config.get("vision_config", {} if config["model_type"] == "clip" else config)
    if not isinstance(vision, dict):
        raise InputError(f"model {name}: config.json: vision_config is no object: {vision!r}")
    # A whole CLIPModel projects by its own configuration; what its vision_config says about the
    # projection is left over from other models and may differ.
    owner = config if config["model_type"] == "clip" else vision
    width = read_size(owner, "projection_dim", DEFAULT_PROJECTION_DIM, name)
    image_size = read_size(vision, "image_size", DEFAULT_IMAGE_SIZE, name)
    weights = find_weights(directory, name)
    for path in weights:
        check_weights(path, name)
    hashes = {path.name: hash_file(path) for path in weights}
    nbytes = sum(path.stat().st_size for path in weights)
    return ModelFiles(directory, name, revision, hashes, nbytes, width, image_size)


def read_size(config: dict[str, Any], key: str, default: int, name: str) -> int:
    """Return one positive whole number of a configuration."""
    size = config.get(key, default)
    if type(size) is not int or not 1 <= size <= MAX_SIZE:
        raise InputError(
            f"model {name}: config.json: {key} must be a positive whole number, at most "
            f"{MAX_SIZE:,}, got {size!r:.80}"
        )
    return size


def read_object(path: Path, name: str) -> dict[str, Any]:
    """Return the JSON object that a file of a model holds."""
    try:
        document = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"model {name}: {path.name} cannot be read as JSON") from error
    if not isinstance(document, dict):
        raise InputError(
            f"model {name}: {path.name} must hold a JSON object, holds a {type(document).__name__}"
        )
    return document


def read_config(directory: Path, name: str) -> dict[str, Any]:
    """Return config.json of a CLIP model."""
    path = directory / "config.json"
    if not path.is_file():
        raise InputError(f"model {name}: the directory holds no config.json")
    config = read_object(path, name)
    model_type = config.get("model_type")
    if model_type not in ("clip", "clip_vision_model"):
        raise InputError(
            f"model {name}: config.json says model_type {model_type!r}; "
            "a CLIP model (clip, clip_vision_model) is needed"
        )
    return config


def find_weights(directory: Path, name: str) -> list[Path]:
    """Return the weights files in name order: one, or the shards that the index names."""
    single = directory / "model.safetensors"
    if single.is_file():
        return [single]
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        shards = [directory / shard for shard in read_shard_names(index, name)]
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


def read_shard_names(index: Path, name: str) -> list[str]:
    """Return the names of the weights files in an index, sorted."""
    weight_map = read_object(index, name).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"model {name}: {index.name} has no weight_map that names files")
    for shard in weight_map.values():
        # A path could lead out of the directory.
        plain = isinstance(shard, str) and not set(shard) & set("/\\")
        if not plain or not shard.endswith(".safetensors"):
            raise InputError(
                f"model {name}: {index.name} names {shard!r}; "
                "only safetensors files of the same directory are allowed"
            )
    return sorted(set(weight_map.values()))


def check_weights(path: Path, name: str) -> None:
    """Refuse a weights file that is cut short, or that is no safetensors file."""
    try:
        with safe_open(path, framework="np"):
            pass
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"model {name}: {path.name} is no whole safetensors file: {error}"
        ) from error


def parse_preprocessing(name: str, config: dict[str, Any]) -> Preprocessing:
    """Return the preprocessing that the configuration of a Hugging Face image processor gives."""
    size, crop = config.get("size") or {}, config.get("crop_size") or {}
    resample = config.get("resample")
    filter_name = PIL_RESAMPLE_NAMES.get(resample) if isinstance(resample, int) else None
    steps = [f"do_{step}" for step in ("resize", "rescale", "normalize")]
    skipped = [step for step in steps if not config.get(step)]
    refused = f"model {name}: {PREPROCESSOR_FILE}: preprocessing is not supported"
    if skipped or filter_name is None or not (size.get("shortest_edge") or size.get("height")):
        raise InputError(
            f"{refused}: steps left out {skipped}, resample {resample}, size {dict(size)}; "
            "supported are resize to a shortest edge or a height and width, bilinear (2) or "
            "bicubic (3), centre crop, rescale, normalize"
        )
    edge, is_cropped = size.get("shortest_edge"), config.get("do_center_crop")
    try:
        return Preprocessing(
            shortest_edge=read_edge(edge) if edge else None,
            size=None if edge else (read_edge(size["height"]), read_edge(size["width"])),
            resample=filter_name,
            crop=(read_edge(crop["height"]), read_edge(crop["width"])) if is_cropped else None,
            rescale_factor=read_factor(config["rescale_factor"]),
            mean=read_channels(config, "image_mean"),
            std=read_channels(config, "image_std"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{refused}: {describe_error(error)}") from error


def read_edge(edge: object) -> int:
    """Return a height or width of an image processor."""
    if type(edge) is not int or not 1 <= edge <= MAX_SIZE:
        raise ValueError(f"a size must be from 1 to {MAX_SIZE:,} pixels, got {edge!r:.80}")
    return edge


def read_factor(factor: Any) -> float:
    """Return the factor by which an image processor makes floats of bytes."""
    is_number = isinstance(factor, (int, float)) and not isinstance(factor, bool)
    if not is_number or not 0 < factor <= MAX_RESCALE_FACTOR:
        raise ValueError(
            f"rescale_factor must be over 0, {MAX_RESCALE_FACTOR} at most, got {factor!r:.80}"
        )
    return float(factor)


def read_channels(config: dict[str, Any], key: str) -> tuple[float, ...]:
    """Return the three numbers of an image processor's mean or std."""
    numbers = config.get(key)
    if (
        not isinstance(numbers, (list, tuple))
        or len(numbers) != 3
        or not all(isinstance(n, (int, float)) and math.isfinite(n) for n in numbers)
        or (key == "image_std" and 0 in numbers)
    ):
        raise ValueError(f"{key} must be 3 numbers, none 0 in image_std, got {numbers!r}")
    return tuple(map(float, numbers))


def describe_error(error: Exception) -> str:
    """Return the class of a library's error and the first line of its text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # The validation of transformers puts class and text of the cause under a heading.
    if len(lines) > 1 and lines[0].endswith(":"):
        return lines[1]
    return ": ".join([type(error).__name__, *lines[:1]])
