"""`make_inputs` generates what building is measured on: clips, their table and a model.

The clips are ten seconds of H.264 at 340x256 and 30 frames a second, like Kinetics' as most people
store it. The model has the exact ViT-B/32 configuration with random weights, and runs as fast as
one with real weights.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from clip_kinetics700_builder.encode.vision import save_random_model

FRAMES_PER_CLIP = 10


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


def make_inputs(directory: Path, n_clips: int) -> Inputs:
    """Generate clips that differ, their table and the model."""
    videos = directory / "videos"
    videos.mkdir()
    rows = ["path,caption"]
    for number in range(n_clips):
        source = f"testsrc2=size=340x256:rate=30:duration=10,hue=h={number * 15}"
        command = ["ffmpeg", "-v", "error", "-nostdin", "-f", "lavfi", "-i", source]
        command += ["-c:v", "libx264", "-pix_fmt", "yuv420p", str(videos / f"{number}.mp4")]
        subprocess.run(command, check=True)
        rows.append(f"{number}.mp4,clip {number}")
    table = directory / "table.csv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    save_random_model(directory / "vit_b_32", tiny=False)
    return Inputs(directory / "vit_b_32", table, videos, n_clips)
