"""Embeddings are those that transformers' own processor and model give, frame by frame."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, CLIPVisionModelWithProjection

from builder.encode import (
    ClipVisionEncoder,
    load_encoder,
    parse_preprocessing,
    read_preprocessing,
    resolve_batch_size,
    resolve_device,
    resolve_dtype,
)
from builder.model_files import find_model
from builder.preprocess import resize_and_crop
from builder.types import Float32Array, InputError, UInt8Array
from tests.test_preprocess import find_film
from tests.videos import read_raw_frames

BATCH_SIZE = 4


def make_encoder(model: Path, dtype: str = "float32") -> ClipVisionEncoder:
    """Load the model at the batch shape of these tests."""
    files = find_model(str(model), None)
    preprocessing = read_preprocessing(files)
    return load_encoder(files, preprocessing, dtype=dtype, device="cpu", batch_size=BATCH_SIZE)


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


def smallest_cosine(a: Float32Array, b: Float32Array) -> float:
    """Return the cosine of the worst pair of rows."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / norms).min())


def test_embeddings_equal_those_of_transformers(
    encoder: ClipVisionEncoder, random_model: Path, frames: UInt8Array
) -> None:
    """On every frame the fp32 cosine to processor and model of transformers is >= 0.9999."""
    theirs = encode_theirs(random_model, frames)
    assert smallest_cosine(encode_ours(encoder, frames), theirs) >= 0.9999


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
    """What comes out are `image_embeds` as the model gives them, of no unit length."""
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


def test_weights_of_another_model_are_refused(random_model: Path, tmp_path: Path) -> None:
    """A config that names tensors which the weights lack is an error and not random weights."""
    for file in random_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = (tmp_path / "config.json").read_text(encoding="utf-8")
    deeper = config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3')
    (tmp_path / "config.json").write_text(deeper, encoding="utf-8")
    with pytest.raises(InputError, match="tensors are missing"):
        make_encoder(tmp_path)


def test_a_model_without_image_processor_is_refused(random_model: Path, tmp_path: Path) -> None:
    """Without preprocessor_config.json nobody knows what the model takes."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((random_model / name).read_bytes())
    with pytest.raises(InputError, match="image processor cannot be loaded"):
        read_preprocessing(find_model(str(tmp_path), None))


@pytest.mark.parametrize(
    "change",
    [{"do_normalize": False}, {"resample": 1}, {"size": {}}, {"crop_size": {"height": 999}}],
)
def test_unknown_preprocessing_is_refused(change: dict[str, object]) -> None:
    """Steps that we do not do are an error that says which are supported."""
    config = {
        "do_resize": True, "do_rescale": True, "do_normalize": True, "do_center_crop": True,
        "resample": 3, "size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224},
        "rescale_factor": 1 / 255, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }  # fmt: skip
    with pytest.raises(InputError, match="preprocessing is not supported"):
        parse_preprocessing("model", {**config, **change})


def test_auto_is_resolved_for_a_cpu() -> None:
    """On a CPU `auto` is a type that it computes in, and a batch that was measured fast."""
    assert resolve_dtype("auto", "cpu") in ("bfloat16", "float32")
    assert resolve_dtype("float16", "cpu") == "float16"
    assert resolve_batch_size(None, "cpu") == 32
    assert resolve_batch_size(7, "cpu") == 7


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused() -> None:
    """`--device cuda` without one is misuse, said in one line."""
    with pytest.raises(InputError, match="--device cuda: this torch sees no CUDA device"):
        resolve_device("cuda")
