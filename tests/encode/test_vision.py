"""Embeddings equal those of transformers' own processor and model, frame by frame."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, CLIPConfig, CLIPModel, CLIPVisionModelWithProjection

from clip_kinetics700_builder.decode.preprocess import Normalize, resize_and_crop
from clip_kinetics700_builder.encode.model_files import find_model
from clip_kinetics700_builder.encode.tower import ClipVisionEncoder, VisionTower
from clip_kinetics700_builder.encode.vision import load_model, read_preprocessing
from clip_kinetics700_builder.types import BuildError, Float32Array, InputError, UInt8Array
from tests.support.datasets.encoders import load_test_encoder, smallest_cosine
from tests.support.media.videos import find_film, read_raw_frames

BATCH_SIZE = 4


def make_encoder(model: Path, dtype: str = "float32") -> ClipVisionEncoder:
    """Load the model at the batch shape of these tests."""
    return load_test_encoder(model, batch_size=BATCH_SIZE, dtype=dtype)


@pytest.fixture(scope="module")
def encoder(random_model: Path) -> ClipVisionEncoder:
    """The random model in float32."""
    return make_encoder(random_model)


@pytest.fixture(scope="module")
def frames() -> UInt8Array:
    """Return (4, height, width, 3) frames of a real film, spread over it."""
    film = read_raw_frames(find_film("bikes.mp4"))
    return film[:: len(film) // BATCH_SIZE][:BATCH_SIZE]


def encode_ours(encoder: ClipVisionEncoder, frames: UInt8Array) -> Float32Array:
    """Embed decoded frames as a build does."""
    return encoder.encode(resize_and_crop(torch.from_numpy(frames), encoder.preprocessing).numpy())


def encode_theirs(model: Path, frames: UInt8Array) -> Float32Array:
    """Embed decoded frames with nothing but transformers."""
    processor = AutoImageProcessor.from_pretrained(model)
    pixels = processor(images=list(frames), return_tensors="pt")["pixel_values"]
    loaded = CLIPVisionModelWithProjection.from_pretrained(model, dtype=torch.float32).eval()
    with torch.inference_mode():
        embeds: Float32Array = loaded(pixel_values=pixels).image_embeds.numpy()
    return embeds


def test_embeddings_equal_those_of_transformers(
    encoder: ClipVisionEncoder, random_model: Path, frames: UInt8Array
) -> None:
    """On every frame the fp32 cosine to processor and model of transformers is >= 0.9999."""
    theirs = encode_theirs(random_model, frames)
    assert smallest_cosine(encode_ours(encoder, frames), theirs) >= 0.9999


def test_the_last_layer_of_one_token_gives_the_whole_ones_embeddings(random_model: Path) -> None:
    """The last layer, for one token alone, changes no embedding by more than float32 rounds."""
    files = find_model(str(random_model), None)
    whole = load_model(files, torch.float32).eval()
    preprocessing = read_preprocessing(files)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), np.uint8))
    with torch.inference_mode():
        expected = whole(pixel_values=Normalize(preprocessing)(pixels)).image_embeds
        tower = VisionTower(whole, preprocessing, torch.float32)
        assert torch.allclose(tower(pixels), expected, rtol=0, atol=1e-5)
    assert expected.abs().max() > 0.1


def swap_red_and_blue(frames: UInt8Array) -> UInt8Array:
    """Do what a decoder that gives BGR does."""
    return np.ascontiguousarray(frames[..., ::-1])


def mirror(frames: UInt8Array) -> UInt8Array:
    """Do what a decoder that ignores a flip does."""
    return np.ascontiguousarray(frames[:, :, ::-1])


@pytest.mark.parametrize("spoil", [swap_red_and_blue, mirror])
def test_the_bound_rejects_wrong_pixels(
    encoder: ClipVisionEncoder,
    random_model: Path,
    frames: UInt8Array,
    spoil: Callable[[UInt8Array], UInt8Array],
) -> None:
    """Frames with red and blue swapped, or mirrored, do not pass for right ones."""
    theirs = encode_theirs(random_model, frames)
    assert smallest_cosine(encode_ours(encoder, spoil(frames)), theirs) < 0.9999


def test_embeddings_are_not_normalised(encoder: ClipVisionEncoder, frames: UInt8Array) -> None:
    """Embeddings are `image_embeds` as the model gives them, of no unit length."""
    norms = np.linalg.norm(encode_ours(encoder, frames), axis=1)
    assert (np.abs(norms - 1) > 0.01).all()


def test_bfloat16_stays_close(
    encoder: ClipVisionEncoder, random_model: Path, frames: UInt8Array
) -> None:
    """Computing in bfloat16 costs less than 1e-3 of cosine."""
    halves = encode_ours(make_encoder(random_model, "bfloat16"), frames)
    assert smallest_cosine(halves, encode_ours(encoder, frames)) > 0.999


def test_neighbours_leave_no_trace(encoder: ClipVisionEncoder, frames: UInt8Array) -> None:
    """A frame's embedding has the same bits beside other frames and at another place."""
    alone = np.zeros_like(frames)
    alone[-1] = frames[0]
    assert np.array_equal(encode_ours(encoder, alone)[-1], encode_ours(encoder, frames)[0])


def test_another_batch_shape_is_refused(encoder: ClipVisionEncoder) -> None:
    """A batch that is not of the one fixed shape is an error, as its bits would differ."""
    with pytest.raises(ValueError, match="a batch is 4 frames, got 3"):
        encoder.encode(np.zeros((3, 224, 224, 3), np.uint8))


def change_model(model: Path, directory: Path, file: str, change: dict[str, Any]) -> Path:
    """Copy a model with some values of one of its JSON files changed."""
    directory.mkdir()
    for path in model.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    document = json.loads((directory / file).read_text(encoding="utf-8"))
    (directory / file).write_text(json.dumps({**document, **change}), encoding="utf-8")
    return directory


def save_whole_model(model: Path, directory: Path, vision_width: int | None) -> Path:
    """Save a tiny CLIPModel of 64 columns whose vision_config says other ones, or none."""
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    sizes["num_attention_heads"] = 2
    torch.manual_seed(0)
    text = {**sizes, "vocab_size": 64, "bos_token_id": 62, "eos_token_id": 63}
    config = CLIPConfig(text_config=text, vision_config=sizes, projection_dim=64)
    CLIPModel(config).save_pretrained(directory)
    processor = (model / "preprocessor_config.json").read_bytes()
    (directory / "preprocessor_config.json").write_bytes(processor)
    saved = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    saved["vision_config"]["projection_dim"] = vision_width
    if vision_width is None:
        del saved["vision_config"]["projection_dim"]
    (directory / "config.json").write_text(json.dumps(saved), encoding="utf-8")
    return directory


@pytest.mark.parametrize("vision_width", [None, 512, 32])
def test_a_whole_clip_model_gives_its_own_image_features(
    random_model: Path, tmp_path: Path, frames: UInt8Array, vision_width: int | None
) -> None:
    """The projection is CLIPModel's, 64 columns, whatever its vision_config says of one."""
    model = save_whole_model(random_model, tmp_path / "model", vision_width)
    ours = encode_ours(make_encoder(model), frames)
    processor = AutoImageProcessor.from_pretrained(model)
    pixels = processor(images=list(frames), return_tensors="pt")["pixel_values"]
    whole = CLIPModel.from_pretrained(model, dtype=torch.float32).eval()
    with torch.inference_mode():
        pooled = whole.vision_model(pixel_values=pixels).pooler_output
        theirs: Float32Array = whole.visual_projection(pooled).numpy()
    assert ours.shape == theirs.shape == (BATCH_SIZE, 64)
    assert smallest_cosine(ours, theirs) >= 0.9999


def test_weights_of_another_model_are_refused(random_model: Path, tmp_path: Path) -> None:
    """A config that names tensors which the weights lack is an error and not random weights."""
    model = change_model(random_model, tmp_path / "m", "config.json", {"num_hidden_layers": 3})
    with pytest.raises(InputError, match="tensors are missing"):
        make_encoder(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"projection_dim": 64}, r"visual_projection\.weight has shape \[512, 64\], .*\[64, 64\]"),
        ({"patch_size": 16}, r"patch_embedding\.weight has shape \[64, 3, 32, 32\]"),
    ],
)
def test_weights_of_other_sizes_are_refused(
    random_model: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    """A tensor whose shape is not the configuration's is named in one line of our own."""
    model = change_model(random_model, tmp_path / "m", "config.json", change)
    with pytest.raises(InputError, match=f"^model m: its weights do not fit config.*{message}"):
        make_encoder(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": "a"}, "TypeError: Field 'patch_size' with value 'a'"),
        ({"num_attention_heads": 0}, "ZeroDivisionError"),
        ({"patch_size": -1}, "RuntimeError: Trying to create tensor with negative dimension"),
        ({"num_attention_heads": 3}, r"ValueError: The hidden size \(64\) is not a multiple"),
        ({"num_attention_heads": "x"}, "TypeError: Field 'num_attention_heads' expected int"),
        ({"hidden_act": "none"}, "KeyError: 'none'"),
    ],
)
def test_a_configuration_that_builds_no_model_is_refused(
    random_model: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    """A fault that transformers' own checks find, or its code stumbles over, is one line."""
    model = change_model(random_model, tmp_path / "m", "config.json", change)
    with pytest.raises(
        InputError,
        match=rf"^model m: its weights and config\.json cannot be loaded: {message}[^\n]*$",
    ):
        make_encoder(model)


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 10**5}, {"hidden_size": 10**6}, {"intermediate_size": 10**7},
        {"num_hidden_layers": 10**5, "hidden_size": 2}, {"patch_size": 10**5},
    ],
)  # fmt: skip
def test_a_tower_that_its_weights_cannot_hold_is_not_built(
    random_model: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    """A configuration of more numbers than the weights have bytes is refused at once."""
    model = change_model(random_model, tmp_path / "m", "config.json", change)
    with pytest.raises(InputError, match=r"^model m: config\.json describes [\d,]+ numbers, its"):
        make_encoder(model)


def test_layers_without_a_place_are_refused(random_model: Path, tmp_path: Path) -> None:
    """A config of fewer layers than the weights have would encode with half a model."""
    for file in random_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = (tmp_path / "config.json").read_text(encoding="utf-8")
    shallower = config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 1')
    (tmp_path / "config.json").write_text(shallower, encoding="utf-8")
    with pytest.raises(InputError, match=r"has no place for 16 tensors of layers"):
        make_encoder(tmp_path)


def test_a_model_without_image_processor_is_refused(random_model: Path, tmp_path: Path) -> None:
    """Without preprocessor_config.json nobody knows what the model takes."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((random_model / name).read_bytes())
    with pytest.raises(
        InputError, match=r"image processor of preprocessor_config\.json cannot be loaded"
    ):
        read_preprocessing(find_model(str(tmp_path), None))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "json must hold a JSON object, holds a list"),
        ("{", "json cannot be read as JSON"),
        ('{"image_processor_type": 5}', "json cannot be loaded: AttributeError"),
        ('{"image_processor_type": "CLIPImageProcessor", "size": [1]}', "json cannot be loaded"),
    ],
)
def test_a_broken_preprocessor_config_is_refused(
    random_model: Path, tmp_path: Path, text: str, message: str
) -> None:
    """A file that is no image processor's configuration is one line that names it."""
    model = change_model(random_model, tmp_path / "m", "preprocessor_config.json", {})
    (model / "preprocessor_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=rf"^model m: .*preprocessor_config\.{message}[^\n]*$"):
        read_preprocessing(find_model(str(model), None))


@pytest.mark.parametrize(
    ("change", "made"),
    [
        ({"size": 336, "crop_size": 336}, r"\(336, 336\)"),
        ({"crop_size": {"height": 224, "width": 192}}, r"\(224, 192\)"),
        ({"size": {"height": 224, "width": 320}, "do_center_crop": False}, r"\(224, 320\)"),
    ],
)
def test_pictures_of_another_size_are_refused(
    random_model: Path, tmp_path: Path, change: dict[str, Any], made: str
) -> None:
    """Preprocessing that does not end in the model's image_size is refused before any work."""
    model = change_model(random_model, tmp_path / "m", "preprocessor_config.json", change)
    refused = rf"^model m: preprocessor_config\.json makes .* {made}, .* takes \(224, 224\)$"
    with pytest.raises(InputError, match=refused):
        read_preprocessing(find_model(str(model), None))


def test_full_memory_names_the_batch_size(encoder: ClipVisionEncoder) -> None:
    """A batch for which the CPU has no memory ends with a smaller one to set."""
    greedy = dataclasses.replace(encoder, tower=lambda pixels: torch.empty(10**15))
    with pytest.raises(BuildError, match=r"cpu is out of memory at batch size 4; .*-size 2 "):
        greedy.encode(np.zeros((BATCH_SIZE, 224, 224, 3), np.uint8))


def test_another_error_of_torch_is_not_called_full_memory(encoder: ClipVisionEncoder) -> None:
    """An error of the model itself is raised unchanged."""
    pixels = np.zeros((BATCH_SIZE, 224, 224, 3), np.uint8)
    broken = dataclasses.replace(encoder, tower=lambda pixels: pixels.float() @ torch.ones(7))
    with pytest.raises(RuntimeError, match="size mismatch"):
        broken.encode(pixels)
