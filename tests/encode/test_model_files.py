"""Only safetensors weights of CLIP models are loaded; anything else is refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from clip_kinetics700_builder.encode.model_files import (
    find_model,
    parse_preprocessing,
    read_object,
)
from clip_kinetics700_builder.system.files import hash_file
from clip_kinetics700_builder.types import InputError


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
    weights = (random_model / "model.safetensors").read_bytes()
    (directory / names[0]).write_bytes(weights)
    with pytest.raises(InputError, match=r"model-00002-of-00002\.safetensors is missing"):
        find_model(str(directory), None)
    (directory / names[1]).write_bytes(weights)
    assert list(find_model(str(directory), None).weights_sha256) == names


def describe_model(random_model: Path, directory: Path, config: Any) -> tuple[int, int]:
    """Return (width, image_size) of a model with the random weights and another config.json."""
    copy_model(random_model, directory, "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    files = find_model(str(directory), None)
    return files.width, files.image_size


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "clip", "projection_dim": 64, "vision_config": {}}, (64, 224)),
        (
            {
                "model_type": "clip",
                "projection_dim": 64,
                "vision_config": {"projection_dim": 512, "image_size": 336},
            },
            (64, 336),
        ),
        ({"model_type": "clip", "vision_config": {"projection_dim": 64}}, (512, 224)),
        ({"model_type": "clip_vision_model", "projection_dim": 64}, (64, 224)),
        ({"model_type": "clip_vision_model", "image_size": 336}, (512, 336)),
    ],
)
def test_the_width_is_that_of_the_projection(
    random_model: Path, tmp_path: Path, config: Any, expected: tuple[int, int]
) -> None:
    """A whole CLIPModel projects by its top-level value, a vision tower by its own, else 512."""
    assert describe_model(random_model, tmp_path / "model", config) == expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([], "must hold a JSON object, holds a list"),
        ({"model_type": "clip", "vision_config": [1]}, r"vision_config is no object: \[1\]"),
        ({"model_type": "clip", "vision_config": None}, "vision_config is no object: None"),
        ({"model_type": "clip", "projection_dim": None}, "projection_dim must be a positive"),
        ({"model_type": "clip_vision_model", "image_size": [224, 224]}, "image_size must be a"),
        ({"model_type": "clip_vision_model", "projection_dim": True}, "projection_dim must be"),
        ({"model_type": "clip", "vision_config": {}, "projection_dim": 10**9}, "projection_dim m"),
        ({"model_type": "clip_vision_model", "image_size": 10**6}, "image_size must .* 4,096, got"),
    ],
)
def test_a_configuration_of_wrong_types_is_refused(
    random_model: Path, tmp_path: Path, config: Any, message: str
) -> None:
    """A value that is no object or no size is named together with its file."""
    with pytest.raises(InputError, match=rf"^model model: config\.json:? {message}"):
        describe_model(random_model, tmp_path / "model", config)


@pytest.mark.parametrize("n_bytes", [0, 4, 5000])
def test_truncated_weights_are_refused(random_model: Path, tmp_path: Path, n_bytes: int) -> None:
    """A weights file that is empty or cut short is one line that names it."""
    directory = copy_model(random_model, tmp_path / "model", "config.json")
    start = (random_model / "model.safetensors").read_bytes()[:n_bytes]
    (directory / "model.safetensors").write_bytes(start)
    message = r"^model model: model\.safetensors is no whole safetensors file: .+$"
    with pytest.raises(InputError, match=message):
        find_model(str(directory), None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "must hold a JSON object"),
        ("{}", "has no weight_map"),
        ('{"weight_map": []}', "has no weight_map"),
        ('{"weight_map": {"a": "../x.safetensors"}}', "names '../x.safetensors'"),
        ('{"weight_map": {"a": "C:\\\\x.safetensors"}}', ".*only safetensors files of the same"),
        ('{"weight_map": {"a": "x.bin"}}', "names 'x.bin'"),
        ('{"weight_map": {"a": 1}}', "names 1"),
    ],
)
def test_a_broken_index_is_refused(
    random_model: Path, tmp_path: Path, text: str, message: str
) -> None:
    """An index that names no files, or files elsewhere, is one line that names it."""
    directory = copy_model(random_model, tmp_path / "model", "config.json")
    (directory / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    with pytest.raises(
        InputError, match=rf"^model model: model\.safetensors\.index\.json {message}"
    ):
        find_model(str(directory), None)


@pytest.mark.parametrize(
    "change",
    [
        {"do_normalize": False}, {"resample": 1}, {"resample": None}, {"resample": "bicubic"},
        {"size": {}}, {"size": {"height": 224}}, {"size": {"shortest_edge": "a"}},
        {"crop_size": {"height": 999}}, {"crop_size": None}, {"rescale_factor": None},
        {"size": {"shortest_edge": 10**9}}, {"size": {"height": 10**9, "width": 224}},
        {"size": {"shortest_edge": -224}}, {"crop_size": {"height": 10**9, "width": 10**9}},
        {"rescale_factor": float("nan")}, {"rescale_factor": float("inf")},
        {"rescale_factor": 0}, {"rescale_factor": -1 / 255}, {"rescale_factor": 1e308},
        {"rescale_factor": True},
        {"image_mean": [0.5, 0.5]}, {"image_mean": 0.5}, {"image_mean": ["a", "b", "c"]},
        {"image_std": None}, {"image_std": [0, 1, 1]},
    ],
)  # fmt: skip
def test_unknown_preprocessing_is_refused(change: dict[str, object]) -> None:
    """Steps and values that we cannot follow are an error that names model and file."""
    config = {
        "do_resize": True, "do_rescale": True, "do_normalize": True, "do_center_crop": True,
        "resample": 3, "size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224},
        "rescale_factor": 1 / 255, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }  # fmt: skip
    refused = r"^model m: preprocessor_config\.json: preprocessing is not supported: [^\n]+$"
    with pytest.raises(InputError, match=refused):
        parse_preprocessing("m", {**config, **change})


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_nested_json_is_refused(random_model: Path, tmp_path: Path, name: str) -> None:
    """Files that are nested too deep for Python's stack are one line that names them."""
    names = ("config.json", "preprocessor_config.json", "model.safetensors")
    model = copy_model(random_model, tmp_path / "model", *names)
    (model / name).write_text('{"a":' * 99_999 + "1" + "}" * 99_999, encoding="utf-8")
    with pytest.raises(InputError, match=rf"^model model: {name} cannot be read as JSON$"):
        read_object(model / name, "model")
