"""Only safetensors weights of CLIP models are taken; anything else is one clear line."""

import json
from pathlib import Path

import pytest

from builder.model_files import find_model
from builder.types import InputError
from builder.write import hash_file


def copy_model(model: Path, directory: Path, *names: str) -> Path:
    """Copy some files of a model."""
    directory.mkdir()
    for name in names:
        (directory / name).write_bytes((model / name).read_bytes())
    return directory


def test_a_directory_is_described(random_model: Path) -> None:
    """Name, width and the sha256 of the weights are those of the directory."""
    files = find_model(str(random_model), None)
    weights = random_model / "model.safetensors"
    assert (files.name, files.width, files.revision) == ("random_clip", 512, None)
    assert files.weights_sha256 == {"model.safetensors": hash_file(weights)}


def test_pickled_weights_are_refused(random_model: Path, tmp_path: Path) -> None:
    """A directory with only pytorch_model.bin is not loaded: unpickling can run code."""
    directory = copy_model(random_model, tmp_path / "model", "config.json")
    (directory / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(InputError, match=r"only pickled weights \(pytorch_model.bin\)"):
        find_model(str(directory), None)


def test_no_weights_are_refused(random_model: Path, tmp_path: Path) -> None:
    """A directory with a configuration alone is not enough."""
    directory = copy_model(random_model, tmp_path / "model", "config.json")
    with pytest.raises(InputError, match="holds no weights"):
        find_model(str(directory), None)


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    """A directory that is no model at all says what is missing."""
    with pytest.raises(InputError, match=r"holds no config\.json"):
        find_model(str(tmp_path), None)


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    """A model without CLIP's projection is named by its type."""
    (tmp_path / "config.json").write_text('{"model_type": "siglip"}', encoding="utf-8")
    with pytest.raises(InputError, match="model_type 'siglip'; a CLIP model"):
        find_model(str(tmp_path), None)


def test_a_path_that_is_not_there_is_no_hub_id(tmp_path: Path) -> None:
    """A mistyped path is said to be one and is not looked for on the Hub."""
    with pytest.raises(InputError, match="is not a directory, and no Hub id"):
        find_model(str(tmp_path / "nope"), None)


def test_sharded_weights_are_all_hashed(random_model: Path, tmp_path: Path) -> None:
    """An index names its shards, each of which has its hash; a missing one is named."""
    directory = copy_model(random_model, tmp_path / "model", "config.json")
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {"weight_map": {"a": names[0], "b": names[1], "c": names[0]}}
    index_path = directory / "model.safetensors.index.json"
    index_path.write_text(json.dumps(index), encoding="utf-8")
    (directory / names[0]).write_bytes(b"1")
    with pytest.raises(InputError, match=r"model-00002-of-00002\.safetensors is missing"):
        find_model(str(directory), None)
    (directory / names[1]).write_bytes(b"2")
    assert list(find_model(str(directory), None).weights_sha256) == names
