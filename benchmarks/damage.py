"""Measures which damage of a video file is noticed, by codec and kind, and prints docs' table.

Clips of six seconds with one key frame are damaged where their pictures lie. A sample is wrong when
one of its frames differs from the sound clip's by more than two levels on average.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np

from benchmarks.generated_clips import make_clip
from clip_kinetics700_builder.decode.video import DecodeTask, Decoding, decode_frames
from clip_kinetics700_builder.types import Failure, Frames
from tests.support.media.videos import LIKE_CLIP

N_SOURCES = 6
SECONDS = 6
WRONG_LEVELS = 2.0
CODECS = {
    "H.264": (".mp4", ("libx264", "-g", "999")),
    "HEVC": (".mp4", ("libx265", "-x265-params", "log-level=none:keyint=999")),
    "VP9": (".webm", ("libvpx-vp9", "-g", "999", "-deadline", "realtime", "-cpu-used", "8")),
    "AV1": (".mp4", ("libaom-av1", "-g", "999", "-usage", "realtime", "-cpu-used", "8")),
    "MPEG-4": (".mp4", ("mpeg4", "-g", "600", "-bf", "2")),
}
Damage = Callable[[bytearray, list[int], np.random.Generator], None]


def flip_bits(n_bits: int) -> Damage:
    """Return what flips single bits anywhere in the pictures."""

    def damage(data: bytearray, places: list[int], random: np.random.Generator) -> None:
        for place in random.choice(places, n_bits):
            data[place] ^= 1 << int(random.integers(8))

    return damage


def scatter_bytes(n_bytes: int) -> Damage:
    """Return what overwrites single bytes anywhere in the pictures."""

    def damage(data: bytearray, places: list[int], random: np.random.Generator) -> None:
        for place in random.choice(places, n_bytes):
            data[place] ^= int(random.integers(1, 256))

    return damage


def overwrite_run(n_bytes: int, *, zeros: bool) -> Damage:
    """Return what overwrites a run of bytes, as a lost block of a disk or of a download does."""

    def damage(data: bytearray, places: list[int], random: np.random.Generator) -> None:
        begin = int(random.choice(places))
        end = min(begin + n_bytes, places[-1] + 1)
        data[begin:end] = bytes(end - begin) if zeros else random.bytes(end - begin)

    return damage


KINDS: dict[str, Damage] = {
    "one bit": flip_bits(1),
    "16 bytes in a row": overwrite_run(16, zeros=False),
    "16 bytes scattered": scatter_bytes(16),
    "hole of 256 bytes": overwrite_run(256, zeros=True),
    "hole of 1 KiB": overwrite_run(1024, zeros=True),
    "hole of 4 KiB": overwrite_run(4096, zeros=True),
    "hole of 64 KiB": overwrite_run(65536, zeros=True),
}


def list_places(path: Path) -> list[int]:
    """Return the places of all bytes of pictures, but the first one's header, in a file."""
    places: list[int] = []
    with av.open(str(path)) as container:
        for packet in container.demux(container.streams.video[0]):
            if packet.pos is not None and packet.size:
                places += range(packet.pos + (0 if places else 64), packet.pos + packet.size)
    return places


def decode(path: Path) -> Frames | Failure:
    """Decode one frame a second as a build does."""
    return decode_frames(DecodeTask(0, str(path), 0, Decoding(1.0, LIKE_CLIP)))


def judge(path: Path, sound: Frames) -> str:
    """Return what came of a damaged file: `noticed`, `wrong` or `harmless`."""
    found = decode(path)
    if isinstance(found, Failure):
        return "noticed"
    if found.pixels.shape != sound.pixels.shape:
        return "wrong"
    levels = np.abs(found.pixels.astype(int) - sound.pixels).mean(axis=(1, 2, 3))
    return "wrong" if levels.max() > WRONG_LEVELS else "harmless"


def damage_all(codec: str, directory: Path, n_files: int) -> Iterator[tuple[str, str]]:
    """Yield (kind of damage, what came of it) for files of one codec."""
    suffix, options = CODECS[codec]
    for number in range(N_SOURCES):
        path = directory / f"{number}{suffix}"
        make_clip(path, seed=number, seconds=SECONDS, n_cuts=0, options=("-c:v", *options))
        sound = decode(path)
        if isinstance(sound, Failure):
            raise RuntimeError(f"{path.name}: a sound clip gives {sound}")
        data, places = path.read_bytes(), list_places(path)
        for kind, damage in KINDS.items():
            for seed in range(number, n_files, N_SOURCES):
                damaged = bytearray(data)
                damage(damaged, places, np.random.default_rng([seed, len(kind)]))
                (directory / f"damaged{suffix}").write_bytes(damaged)
                yield kind, judge(directory / f"damaged{suffix}", sound)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=60, help="of each codec and kind")
    n_files = parser.parse_args().files
    counts: Counter[tuple[str, str, str]] = Counter()
    for codec in CODECS:
        with tempfile.TemporaryDirectory() as directory:
            for kind, outcome in damage_all(codec, Path(directory), n_files):
                counts[codec, kind, outcome] += 1
    print(f"Of {n_files} files: wrong samples / failed clips; the others do not show the damage.\n")
    print(f"| damage | {' | '.join(CODECS)} |\n|---|{'---|' * len(CODECS)}")
    for kind in KINDS:
        cells = [
            f"{counts[codec, kind, 'wrong']} / {counts[codec, kind, 'noticed']}" for codec in CODECS
        ]
        print(f"| {kind} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
