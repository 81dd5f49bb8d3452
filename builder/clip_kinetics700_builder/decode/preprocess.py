"""Chooses the frames of a clip and turns them into the pixels that a CLIP model was trained on.

It repeats in torch what a Hugging Face image processor does, so that workers can shrink frames
where they are decoded and only crops travel; decoders and encoders share it.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from clip_kinetics700_builder.types import UInt8Array

RESAMPLES = ("bicubic", "bilinear")
# How far beyond its stated end the last frame is held: containers round that end.
MAX_GAP_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """The steps of an image processor, in the order of the fields."""

    shortest_edge: int | None = None
    """Pixels of the shorter edge after resizing, aspect ratio kept; None if `size` is given."""
    size: tuple[int, int] | None = None
    """Exactly (height, width) after resizing; None if `shortest_edge` is given."""
    resample: str
    """`bicubic` or `bilinear`, antialiased."""
    crop: tuple[int, int] | None
    """(height, width) of the centre crop, pixels; None crops nothing and needs `size`."""
    rescale_factor: float
    """Factor of each pixel value, 1 / 255 for CLIP."""
    mean: tuple[float, ...]
    """One number for each channel, RGB, to subtract after rescaling."""
    std: tuple[float, ...]
    """One number for each channel, RGB, to divide by at the end."""

    def __post_init__(self) -> None:
        """Refuse a filter that torch lacks, and sizes that would give crops of several shapes."""
        if self.resample not in RESAMPLES:
            raise ValueError(f"resample must be one of {RESAMPLES}, got {self.resample!r}")
        if (self.shortest_edge is None) == (self.size is None):
            raise ValueError(f"need one of {self.shortest_edge = } and {self.size = }")
        smallest = self.size or (self.shortest_edge or 0, self.shortest_edge or 0)
        if self.crop is None and self.size is None:
            raise ValueError("a resize to the shortest edge needs a crop, frames differ otherwise")
        if self.crop and not all(0 < c <= e for c, e in zip(self.crop, smallest, strict=True)):
            raise ValueError(f"crop {self.crop} does not fit in frames resized to {smallest}")

    @property
    def final_size(self) -> tuple[int, int]:
        """(height, width) of every crop, in pixels."""
        size = self.crop or self.size
        if size is None:
            raise AssertionError("a resize to the shortest edge has a crop")
        return size

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) after resizing a frame of that height and width."""
        edge = self.shortest_edge
        if edge is None:
            return self.size or (height, width)
        # The image processor, too, truncates the longer edge to whole pixels instead of rounding.
        if height <= width:
            return edge, int(edge * width / height)
        return int(edge * height / width), edge

    def to_dict(self) -> dict[str, Any]:
        """Return the fields in types that JSON gives back equal."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Preprocessing":
        """Return the preprocessing that `to_dict` described."""
        tuples: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()
        }
        return cls(**tuples)


def resize_and_crop(frames: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Return (n, crop_height, crop_width, 3) uint8 of (n, height, width, 3) uint8."""
    height, width = preprocessing.resized_size(frames.shape[1], frames.shape[2])
    planes = frames.permute(0, 3, 1, 2)
    # The image processor rounds to uint8 after resizing; on a GPU torch can resize floats only.
    if frames.is_cuda:
        resized = resize_floats(planes, (height, width), preprocessing.resample)
    else:
        resized = resize_planes(planes, (height, width), preprocessing.resample)
    crop_height, crop_width = preprocessing.crop or (height, width)
    # Offsets are floored, as in both of Hugging Face's backends; torchvision's CenterCrop rounds
    # half to even, which is one pixel further for every other odd margin.
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    cropped = resized[:, :, top : top + crop_height, left : left + crop_width]
    return cropped.permute(0, 2, 3, 1).contiguous()


def resize_planes(planes: Tensor, size: tuple[int, int], resample: str) -> Tensor:
    """Return (n, channels, height, width) of another size, in the dtype of the input."""
    # Without antialias a shrunk frame is a sample of its pixels: the model never saw such pictures.
    return torch.nn.functional.interpolate(
        planes, size, mode=resample, align_corners=False, antialias=True
    )


def resize_floats(planes: Tensor, size: tuple[int, int], resample: str) -> Tensor:
    """Return (n, channels, height, width) uint8 of another size, computed in float32.

    As in the image processor, the width comes first, then the height, with whole levels between:
    in one go, edges would overshoot by up to twenty levels.
    """
    values = planes.float()
    for step in ((planes.shape[2], size[1]), size):
        values = resize_planes(values, step, resample).round_().clamp_(0, 255)
    return values.to(torch.uint8)


def crop_displayed(
    frames: Iterable[tuple[float, float, Callable[[], UInt8Array]]],
    times: Sequence[float],
    crop: Callable[[UInt8Array], Tensor],
) -> Tensor | None:
    """Return the crops of the frames displayed at ascending times; the first stands for any before.

    A frame is displayed until the next one begins.

    Args:
        frames: (begin, end, what makes (height, width, 3) uint8 RGB) of frames in the order of
            display; one is held at a time, and none is taken beyond the last of `times`.
        times: seconds on the clock of the frames.
        crop: makes (1, crop_height, crop_width, 3) uint8 of a frame's pixels.

    Returns:
        (len(times), crop_height, crop_width, 3) uint8, or None if the frames end over a second
        before the last of `times`.
    """
    crops: list[Tensor] = []
    shown, shown_end = None, -math.inf
    for begin, end, make in frames:
        n_past = bisect_left(times, begin)
        if shown is not None and n_past > len(crops):
            crops += [crop(shown())] * (n_past - len(crops))
        if len(crops) == len(times):
            return torch.cat(crops)
        shown, shown_end = make, end
    if shown is None or times[-1] > shown_end + MAX_GAP_SECONDS:
        return None
    crops += [crop(shown())] * (len(times) - len(crops))
    return torch.cat(crops)


class Normalize(torch.nn.Module):
    """The last step of preprocessing, which runs where the model does."""

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        """Keep the constants as buffers, which move with the module."""
        super().__init__()
        self.rescale_factor = preprocessing.rescale_factor
        for name, values in (("mean", preprocessing.mean), ("std", preprocessing.std)):
            constant = torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
            self.register_buffer(name, constant, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the model's (n, 3, height, width) float32 of (n, height, width, 3) uint8."""
        values = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return (values * self.rescale_factor - self.mean) / self.std


# Durations are differences of two rounded times: ten seconds may come as 10.000000000000002 and
# must not gain an eleventh frame. Video clocks tick up to 100,000 times a second, so a microsecond
# is far more than the rounding and far less than any frame.
SAME_TIME_SECONDS = 1e-6


def count_frames(duration_seconds: float, frames_per_second: float) -> int:
    """Return how many times k / rate lie in the half-open range [0, duration).

    Times within one microsecond of each other are the same time.

    Raises:
        ValueError: the duration is not a number of seconds, or the rate is not positive.
    """
    if not math.isfinite(duration_seconds):
        raise ValueError(f"duration must be a finite number of seconds, got {duration_seconds}")
    _check_rate(frames_per_second)
    return max(0, math.ceil((duration_seconds - SAME_TIME_SECONDS) * frames_per_second))


def list_timestamps(first: int, stop: int, *, frames_per_second: float) -> list[float]:
    """Return the times of frames `first` to `stop` (excluded), in seconds since the start.

    Raises:
        ValueError: the rate is not positive.
    """
    _check_rate(frames_per_second)
    return [k / frames_per_second for k in range(first, stop)]


def _check_rate(frames_per_second: float) -> None:
    if not (math.isfinite(frames_per_second) and frames_per_second > 0):
        raise ValueError(f"frames per second must be above 0, got {frames_per_second}")
