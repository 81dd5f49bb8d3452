"""A CUDA device gives the rows of the CPU, and the same bits whatever stands beside them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from clip_kinetics700_builder.decode.video import DecodeTask, Decoding, decode_frames
from clip_kinetics700_builder.encode.batches import EncoderThreads
from clip_kinetics700_builder.encode.devices import (
    resolve_batch_size,
    resolve_device,
    resolve_dtype,
)
from clip_kinetics700_builder.encode.tower import ClipVisionEncoder
from clip_kinetics700_builder.encode.vision import save_random_model
from clip_kinetics700_builder.types import Failure, Frames, UInt8Array
from tests.support.datasets.encoders import load_test_encoder, smallest_cosine
from tests.support.media.videos import LIKE_CLIP, CodedVideo

BATCH_SIZE = 64

pytestmark = [
    pytest.mark.needs_gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(scope="module")
def vit_b_32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the exact ViT-B/32 configuration with random weights."""
    directory = tmp_path_factory.mktemp("model") / "vit_b_32"
    save_random_model(directory, tiny=False)
    return directory


@pytest.fixture(scope="module")
def pixels() -> UInt8Array:
    """Return (64, 224, 224, 3) frames of coarse noise."""
    coarse = np.random.default_rng(0).integers(0, 256, (64, 14, 14, 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(16, axis=1).repeat(16, axis=2))


def make_encoder(model: Path, dtype: str, device: str) -> ClipVisionEncoder:
    """Load the model at the batch shape of these tests."""
    return load_test_encoder(model, batch_size=BATCH_SIZE, dtype=dtype, device=device)


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 0.9999), ("bfloat16", 0.999)])
def test_the_gpu_gives_the_rows_of_the_cpu(
    vit_b_32: Path, pixels: UInt8Array, dtype: str, bound: float
) -> None:
    """Every row's cosine to float32 on the CPU is within the bound of its type."""
    on_cpu = make_encoder(vit_b_32, "float32", "cpu").encode(pixels)
    on_gpu = make_encoder(vit_b_32, dtype, "cuda").encode(pixels)
    assert smallest_cosine(on_cpu, on_gpu) >= bound


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_neighbours_leave_no_trace_on_the_gpu(
    vit_b_32: Path, pixels: UInt8Array, dtype: str
) -> None:
    """A row has the same bits at another place, beside other rows, and after a second load."""
    encoder = make_encoder(vit_b_32, dtype, "cuda")
    rows = encoder.encode(pixels)
    order = np.random.default_rng(1).permutation(len(pixels))
    others = np.zeros_like(pixels)
    others[:5] = pixels[:5]
    assert np.array_equal(encoder.encode(pixels[order]), rows[order])
    assert np.array_equal(encoder.encode(others)[:5], rows[:5])
    assert np.array_equal(make_encoder(vit_b_32, dtype, "cuda").encode(pixels), rows)


@pytest.mark.parametrize("compiled", [False, True])
def test_threads_give_the_bits_of_one_call(
    vit_b_32: Path, pixels: UInt8Array, *, compiled: bool
) -> None:
    """Two streams at once, from pinned memory, eager or compiled: every call has the same bits."""
    encoder = load_test_encoder(
        vit_b_32, batch_size=BATCH_SIZE, dtype="bfloat16", device="cuda", compiled=compiled
    )
    with EncoderThreads(encoder, 2, is_pinned=True) as threads:
        batch = threads.make_batch(pixels.shape[1:])
        batch[:] = pixels
        first = threads.submit(batch).result()
        futures = [threads.submit(batch) for _ in range(20)]
        assert all(np.array_equal(future.result(), first) for future in futures)


def test_nvdec_gives_the_frames_of_the_cpu(plain_video: CodedVideo) -> None:
    """A GPU's decoder picks the same frames, within what its colours and resize round."""
    clip = replace(LIKE_CLIP, shortest_edge=32, crop=(32, 32))
    on_cpu, on_gpu = (
        decode_frames(
            DecodeTask(
                0,
                str(plain_video.path),
                0,
                Decoding(1.0, clip, decoder="torchcodec", device=device),
            )
        )
        for device in ("cpu", "cuda")
    )
    if isinstance(on_gpu, Failure):
        pytest.skip(f"this torchcodec has no NVDEC: {on_gpu.message}")
    assert isinstance(on_cpu, Frames)
    assert on_gpu.timestamps.tolist() == on_cpu.timestamps.tolist()
    difference = np.abs(on_gpu.pixels.astype(int) - on_cpu.pixels.astype(int))
    assert difference.mean() < 2


def test_auto_is_resolved_for_a_gpu() -> None:
    """With a CUDA device `auto` takes it, in the type that it multiplies fast."""
    assert resolve_device("auto") == "cuda"
    assert resolve_dtype("auto", "cuda") in ("bfloat16", "float32")
    assert resolve_batch_size(None, "cuda") == 256
