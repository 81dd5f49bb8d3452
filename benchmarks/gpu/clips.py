"""Clips for the GPU check are made here, alike on every machine: textures that pan, cuts, grain.

x264 encodes them as it does by default. PyAV does it where it is installed, since a rented GPU
machine seldom has the ffmpeg program; else that program does.
"""

import math
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

FRAMES_PER_SECOND = 30
FRAMES_PER_CUT = 100

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ClipShape:
    """Which clip is made."""

    path: Path
    width: int
    height: int
    grain: float
    """Standard deviation of the noise, in levels of 255."""
    seed: int
    seconds: int


def make_clip(shape: ClipShape) -> None:
    """Write one clip."""
    write = write_with_pyav if find_spec("av") else write_with_ffmpeg
    write(shape, draw_frames(shape))


def draw_frames(shape: ClipShape) -> Iterator[Picture]:
    """Yield (height, width, 3) uint8 RGB frames."""
    rng = np.random.default_rng(shape.seed)
    width, height = shape.width, shape.height
    grains = rng.normal(0, shape.grain, (8, height, width, 1)).astype(np.int16)
    world = np.empty(0, np.uint8)
    for number in range(FRAMES_PER_SECOND * shape.seconds):
        if number % FRAMES_PER_CUT == 0:
            coarse = rng.integers(0, 256, (height // 12, width // 12, 3), np.uint8)
            size = (2 * width, 2 * height)
            large = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
            world = np.asarray(large)
        x = int(width * (0.5 + 0.45 * math.sin(number / 40)))
        y = int(height * (0.5 + 0.45 * math.cos(number / 55)))
        shown = world[y : y + height, x : x + width] + grains[number % 8]
        yield shown.clip(0, 255).astype(np.uint8)


def write_with_pyav(shape: ClipShape, frames: Iterable[Picture]) -> None:
    """Encode frames with PyAV's x264."""
    import av

    codec: Any = {"options": {"threads": "1"}}
    with av.open(str(shape.path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=FRAMES_PER_SECOND, **codec)
        stream.width, stream.height, stream.pix_fmt = shape.width, shape.height, "yuv420p"
        for picture in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))


def write_with_ffmpeg(shape: ClipShape, frames: Iterable[Picture]) -> None:
    """Encode frames with the ffmpeg program."""
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{shape.width}x{shape.height}", "-r", str(FRAMES_PER_SECOND), "-i", "pipe:0"]
    command += ["-c:v", "libx264", "-threads", "1", "-pix_fmt", "yuv420p", str(shape.path)]
    content = b"".join(picture.tobytes() for picture in frames)
    subprocess.run(command, input=content, check=True)
