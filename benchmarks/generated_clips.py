"""`make_inputs` generates what building is measured on: clips, their table and a model.

The clips are like Kinetics' as most people store it: ten seconds of H.264 at 340x256 and 30 frames
a second with pictures that move, grain and cuts, so that they are as large, and as dear to decode,
as real ones. The model has the exact ViT-B/32 configuration with random weights, and runs as fast
as one with real weights.
"""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from clip_kinetics700_builder.encode.vision import save_random_model
from clip_kinetics700_builder.types import UInt8Array

FRAMES_PER_CLIP = 10
KINETICS_SIZE = (340, 256)
# Bits a second that make a clip of that size as large as Kinetics' real ones, 0.75 MB; larger
# pictures take less a pixel, as they do on YouTube.
KINETICS_BIT_RATE = 600_000
RATE_EXPONENT = 0.6
# How much larger details stand out of smaller ones.
DETAIL = 0.6
H264 = ("-c:v", "libx264")


@dataclass(frozen=True, slots=True)
class Inputs:
    """The clips, their table and the model that building is measured on."""

    model: Path
    table: Path
    videos: Path
    n_clips: int

    @property
    def clips(self) -> list[Path]:
        """The video files, in order."""
        return sorted(self.videos.iterdir())


def make_inputs(directory: Path, n_clips: int, *, size: tuple[int, int] = KINETICS_SIZE) -> Inputs:
    """Generate clips that differ, their table and the model."""
    videos = directory / "videos"
    videos.mkdir()
    rows = ["path,caption"]
    for number in range(n_clips):
        make_clip(videos / f"{number}.mp4", seed=number, size=size)
        rows.append(f"{number}.mp4,clip {number}")
    table = directory / "table.csv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    save_random_model(directory / "vit_b_32", tiny=False)
    return Inputs(directory / "vit_b_32", table, videos, n_clips)


def make_clip(
    path: Path,
    *,
    seed: int,
    size: tuple[int, int] = KINETICS_SIZE,
    seconds: int = 10,
    n_cuts: int = 3,
    options: Sequence[str] = H264,
) -> None:
    """Write a clip: a texture that the camera pans over, with grain, cut several times.

    Args:
        path: of the video.
        seed: of the texture, the path of the camera and the cuts.
        size: (width, height), pixels.
        seconds: how long it is, at 30 frames a second.
        n_cuts: how often the camera is elsewhere at once.
        options: ffmpeg's, of the codec.
    """
    width, height = size
    random = np.random.default_rng(seed)
    texture = path.with_suffix(".ppm")
    pixels = draw_texture(2 * height, 2 * width, random)
    texture.write_bytes(b"P6 %d %d 255\n" % (2 * width, 2 * height) + pixels.tobytes())
    shots = [
        f"floor(t*{n_cuts + 1}/{seconds})*{random.uniform(0.2, 0.5):.3f}"
        f"+{random.uniform(0.05, 0.12):.3f}*t"
        for _ in range(2)
    ]
    x, y = (f"{edge}*abs(mod({shot}\\,2)-1)" for edge, shot in zip(size, shots, strict=True))
    camera = f"crop={width}:{height}:x='{x}':y='{y}',noise=alls=5:allf=t:all_seed={seed}"
    n_times = width * height / (KINETICS_SIZE[0] * KINETICS_SIZE[1])
    rate = f"{round(KINETICS_BIT_RATE * n_times**RATE_EXPONENT)}"
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y", "-loop", "1", "-framerate", "30"]
    command += ["-i", str(texture), "-t", str(seconds), "-vf", camera, "-pix_fmt", "yuv420p"]
    subprocess.run([*command, "-b:v", rate, *options, str(path)], check=True)
    texture.unlink()


def draw_texture(height: int, width: int, random: np.random.Generator) -> UInt8Array:
    """Return (height, width, 3) uint8 of clouds with details of every size, as pictures have."""
    texture = torch.zeros((1, 3, height, width))
    for exponent in range(2, 9):
        step = 2**exponent
        coarse = random.normal(size=(1, 3, height // step + 2, width // step + 2))
        texture += step**DETAIL * torch.nn.functional.interpolate(
            torch.from_numpy(coarse).float(), (height, width), mode="bicubic"
        )
    levels = (texture - texture.min()) / (texture.max() - texture.min()) * 255
    return np.asarray(levels[0].permute(1, 2, 0).to(torch.uint8).contiguous())
