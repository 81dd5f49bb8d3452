"""Preprocessing gives what the image processor of transformers itself gives."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from clip_kinetics700_builder.decode.preprocess import (
    Normalize,
    Preprocessing,
    resize_and_crop,
    resize_floats,
    resize_planes,
)
from clip_kinetics700_builder.types import UInt8Array
from tests.support.media.videos import draw_quadrants, find_film, read_raw_frames, run_ffmpeg

CLIP = Preprocessing(
    shortest_edge=224,
    resample="bicubic",
    crop=(224, 224),
    rescale_factor=1 / 255,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)
MEAN_TOLERANCE, MAX_TOLERANCE = 1 / 255, 4 / 255
SIZES = [(340, 256), (341, 255), (256, 341), (427, 240), (226, 225), (120, 90), (64, 300)]


@pytest.fixture(scope="module")
def contents(video_directory: Path) -> dict[str, UInt8Array]:
    """Return two frames each of real and drawn pictures, as (2, height, width, 3)."""
    for name in ("testsrc2", "mandelbrot"):
        lavfi = f"{name}=size=640x360:rate=5"
        run_ffmpeg("-f", "lavfi", "-i", lavfi, "-t", "2", video_directory / f"{name}.mkv")
    drawn = {name: video_directory / f"{name}.mkv" for name in ("testsrc2", "mandelbrot")}
    filmed = {name: find_film(f"{name}.mp4") for name in ("bikes", "bigbuckbunny")}
    return {name: read_raw_frames(path)[[3, -1]] for name, path in (drawn | filmed).items()}


def process_theirs(frames: UInt8Array) -> npt.NDArray[np.float32]:
    """Return (n, 3, 224, 224) by the image processor of transformers."""
    processed = CLIPImageProcessorPil()(images=list(frames), return_tensors="np")
    pixels: npt.NDArray[np.float32] = processed["pixel_values"]
    return pixels


def process_ours(
    frames: UInt8Array, resize: Callable[[torch.Tensor], torch.Tensor]
) -> npt.NDArray[np.float32]:
    """Return (n, 3, 224, 224) by our normalisation of what `resize` gives."""
    pixels: npt.NDArray[np.float32] = Normalize(CLIP)(resize(torch.from_numpy(frames))).numpy()
    return pixels


ours = partial(resize_and_crop, preprocessing=CLIP)


def swap_red_and_blue(frames: torch.Tensor) -> torch.Tensor:
    """Do what a decoder that gives BGR would lead to."""
    return ours(frames).flip(-1)


def resize_without_antialias(frames: torch.Tensor) -> torch.Tensor:
    """Do what `interpolate` does unless told otherwise."""
    height, width = CLIP.resized_size(frames.shape[1], frames.shape[2])
    resized = torch.nn.functional.interpolate(
        frames.permute(0, 3, 1, 2).float(), (height, width), mode="bicubic"
    )
    top, left = (height - 224) // 2, (width - 224) // 2
    cropped = resized[:, :, top : top + 224, left : left + 224]
    return cropped.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def resize_bilinear(frames: torch.Tensor) -> torch.Tensor:
    """Take the other common filter."""
    fields = CLIP.to_dict() | {"resample": "bilinear"}
    return resize_and_crop(frames, Preprocessing.from_dict(fields))


def crop_one_pixel_off(frames: torch.Tensor) -> torch.Tensor:
    """Shift the crop as rounding its offset up would."""
    return ours(frames).roll(1, dims=2)


def pixels_agree(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> bool:
    """Say whether normalised images differ by no more than rounding, on each frame."""
    std = np.asarray(CLIP.std, np.float32)[:, None, None]
    difference = np.abs(one - other) * std
    is_close_on_average = difference.mean(axis=(1, 2, 3)).max() <= MEAN_TOLERANCE
    return bool(is_close_on_average and difference.max() <= MAX_TOLERANCE)


@pytest.mark.parametrize("name", ["bikes", "bigbuckbunny", "testsrc2", "mandelbrot"])
def test_pixels_are_the_image_processors(contents: dict[str, UInt8Array], name: str) -> None:
    """Films and drawings come out as transformers' CLIP image processor gives them."""
    frames = contents[name]
    assert pixels_agree(process_ours(frames, ours), process_theirs(frames))


@pytest.mark.parametrize(
    "wrong", [swap_red_and_blue, resize_without_antialias, resize_bilinear, crop_one_pixel_off]
)
@pytest.mark.parametrize("name", ["bikes", "bigbuckbunny", "testsrc2", "mandelbrot"])
def test_the_check_rejects_wrong_pixels(
    contents: dict[str, UInt8Array], name: str, wrong: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """The tolerance is tight enough to tell each common mistake from rounding."""
    frames = contents[name]
    assert not pixels_agree(process_ours(frames, wrong), process_theirs(frames))


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_any_size_agrees(contents: dict[str, UInt8Array], width: int, height: int) -> None:
    """Odd, upright, small and narrow frames crop to the same pixels as theirs."""
    film = np.tile(contents["bikes"], (1, 2, 2, 1))
    frames = np.ascontiguousarray(film[:, :height, :width])
    assert frames.shape[1:3] == (height, width)
    assert pixels_agree(process_ours(frames, ours), process_theirs(frames))


@pytest.mark.parametrize("margin", range(9))
def test_crop_offsets_are_floored(margin: int) -> None:
    """A margin of any parity leaves its odd pixel on the right, as the processor does."""
    frames = np.zeros((1, 224, 224 + margin, 3), np.uint8)
    frames[:, :, margin // 2] = 255
    cropped = ours(torch.from_numpy(frames))
    assert cropped[0, 0, 0].tolist() == [255, 255, 255]
    assert cropped[0, 0, 1].tolist() == [0, 0, 0]


def test_crops_are_batches_of_bytes() -> None:
    """Frames come out as contiguous (n, 224, 224, 3) uint8, sides and colours in place."""
    cropped = ours(torch.from_numpy(draw_quadrants(3, width=300, height=260)))
    assert cropped.shape == (3, 224, 224, 3)
    assert cropped.dtype == torch.uint8
    assert cropped.is_contiguous()
    assert cropped[0, 10, 10].tolist() == [255, 0, 0]
    assert cropped[0, -10, 10].tolist() == [0, 0, 255]


def test_a_batch_is_its_frames(contents: dict[str, UInt8Array]) -> None:
    """Frames that share a batch do not touch each other."""
    frames = torch.from_numpy(contents["bikes"])
    singles = torch.cat([ours(frames[i : i + 1]) for i in range(len(frames))])
    assert torch.equal(ours(frames), singles)


def test_exact_size_keeps_no_aspect_ratio() -> None:
    """A model that resizes to a height and width gets just that, with or without a crop."""
    exact = Preprocessing.from_dict(
        CLIP.to_dict() | {"shortest_edge": None, "size": [96, 160], "crop": None}
    )
    frames = torch.from_numpy(draw_quadrants(1, width=100, height=300))
    assert resize_and_crop(frames, exact).shape == (1, 96, 160, 3)


def test_preprocessing_survives_json() -> None:
    """A preprocessing that is stored with a build comes back equal."""
    assert Preprocessing.from_dict(json.loads(json.dumps(CLIP.to_dict()))) == CLIP


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resample": "nearest"}, "resample must be one of"),
        ({"crop": [225, 224]}, "does not fit in frames resized to"),
        ({"crop": None}, "needs a crop"),
        ({"size": [224, 224]}, "need one of"),
        ({"shortest_edge": None}, "need one of"),
    ],
)
def test_impossible_preprocessing_is_refused(change: dict[str, object], message: str) -> None:
    """A description that cannot give frames of one shape is an error that names it."""
    with pytest.raises(ValueError, match=message):
        Preprocessing.from_dict(CLIP.to_dict() | change)


@pytest.mark.parametrize(("height", "width"), [(256, 340), (240, 320), (720, 1280), (90, 120)])
def test_resizing_in_floats_gives_the_levels_of_uint8(height: int, width: int) -> None:
    """Resizing in float32, as on a GPU, is that in uint8 but for a level here and there."""
    frame = np.random.default_rng(height).integers(0, 256, (1, 3, height, width), np.uint8)
    planes = torch.from_numpy(frame)
    size = (224, int(224 * width / height))
    ours = resize_floats(planes, size, "bicubic").int()
    difference = (ours - resize_planes(planes, size, "bicubic").int()).abs()
    assert difference.max() <= 2
    assert difference.float().mean() < 0.02
