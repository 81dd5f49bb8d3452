"""A `ProcessedRows` gives the results of a *processed dataset*, which upstream's tools leave.

It holds `train/ val/ test/` directories of `NAME.npy`, `NAME.txt`, `NAME.json` triples; nothing
tells what they were made with, and the manifest says so.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from clip_kinetics700.schema import SPLIT_OF_WORD, decode_npy, parse_json, parse_time
from clip_kinetics700_builder.assemble.rows import judge_array
from clip_kinetics700_builder.clips.classes import resolve_class_list
from clip_kinetics700_builder.clips.plan import order_clips, plan_digest
from clip_kinetics700_builder.dataset.totals import Totals
from clip_kinetics700_builder.parts.canary import Canary
from clip_kinetics700_builder.types import Clip, EncodedClip, Failure, InputError


class ProcessedRows:
    """The triples of a processed dataset as rows that can be assembled."""

    canary: Canary | None = None

    def __init__(self, directory: Path, *, seed: int, class_list: str) -> None:
        """Read captions and metadata, and the shape of every array.

        Raises:
            InputError: there are no triples, two of them are the same clip, or widths differ.
        """
        clips, files = list_triples(directory)
        class_names = choose_class_names(clips, class_list)
        known = frozenset(class_names or ())
        clips = [clip if clip.label in known else replace(clip, label=None) for clip in clips]
        self._clips = order_clips(clips, seed)
        self._files = files
        self.class_names = None if class_names is None else list(class_names)
        self.width = 0
        self._sha256 = hashlib.sha256()
        self.totals: dict[str, Totals] = {}
        for row, clip in enumerate(self._clips):
            self._count(row, clip)
        if self.width == 0:
            raise InputError(f"{directory}: none of its {len(clips)} npy files holds embeddings")
        self.fingerprint = self._sha256.hexdigest()
        self.configuration: dict[str, Any] = {
            "provenance": "unknown",
            "clips": "own videos" if any(clip.path for clip in self._clips) else "kinetics",
            "embedding_width": self.width,
            "seed": seed,
            "plan_sha256": plan_digest(self._clips),
            "rows": {split: totals.rows for split, totals in self.totals.items()},
        }

    def results(self, split: str) -> Iterator[tuple[Clip, EncodedClip | Failure]]:
        """Yield every row of a split in order."""
        for row, clip in enumerate(self._clips):
            if clip.split == split:
                yield clip, read_embeddings(self._files[clip.identity], row)

    def _count(self, row: int, clip: Clip) -> None:
        totals = self.totals.setdefault(clip.split, Totals())
        totals.rows += 1
        path = self._files[clip.identity]
        result = read_embeddings(path, row)
        if isinstance(result, Failure):
            totals.add_failures(result.reason, 1)
            self._sha256.update(f"{row} {result.reason} {result.message} ".encode())
            return
        n_frames, width = result.embeddings.shape
        self._sha256.update(f"{row} {n_frames} ".encode() + result.embeddings.tobytes())
        if self.width not in (0, width):
            raise InputError(f"{path}: is {width} wide, files before it {self.width}")
        self.width = width
        totals.samples += 1
        totals.frames += n_frames


def is_processed_dataset(directory: Path) -> bool:
    """Say whether a directory has a subdirectory named for a split."""
    return directory.is_dir() and any(
        child.is_dir() and child.name in SPLIT_OF_WORD for child in directory.iterdir()
    )


def list_triples(directory: Path) -> tuple[list[Clip], dict[str, Path]]:
    """Return the clips of a processed dataset and each one's npy file by its identity."""
    words: dict[str, str] = {}
    clips: list[Clip] = []
    files: dict[str, Path] = {}
    for child in sorted(directory.iterdir()):
        split = SPLIT_OF_WORD.get(child.name) if child.is_dir() else None
        if split is None:
            continue
        if split in words:
            raise InputError(f"{directory}: {words[split]} and {child.name} are one split")
        words[split] = child.name
        for path in sorted(child.glob("*.npy")):
            clip = read_clip(path, split)
            if clip.identity in files:
                raise InputError(f"{path}: is the same clip as {files[clip.identity]}")
            files[clip.identity] = path
            clips.append(clip)
    if not clips:
        raise InputError(f"{directory}: holds no NAME.npy files in train, val or test")
    return clips, files


def read_clip(path: Path, split: str) -> Clip:
    """Return what the text and the json beside an npy file say of its clip."""
    try:
        sidecar = path.with_suffix(".json")
        document = parse_json(sidecar.read_bytes()) if sidecar.is_file() else {}
        texts = [path.with_suffix(suffix) for suffix in (".txt", ".cap")]
        captions = [text.read_text(encoding="utf-8") for text in texts if text.is_file()]
        start = parse_time(document.get("start_time"))
        end = parse_time(document.get("end_time"))
    except (ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{path.with_suffix('')}: its text or json cannot be read") from error
    if not all(time is None or 0 <= time < 10**6 for time in (start, end)):
        raise InputError(f"{path.with_suffix('.json')}: times must be from 0 to 999999 seconds")
    caption = captions[0] if captions else ""
    return Clip(
        split=split,
        video_id=str(document.get("videoID") or path.stem),
        time_start=start,
        time_end=end,
        label=caption or None,
        caption=caption,
        # Without times the id does not tell clips of one video apart; the file's name does.
        path=f"{split}/{path.stem}" if start is None or end is None else None,
    )


def choose_class_names(clips: list[Clip], class_list: str) -> tuple[str, ...] | None:
    """Return the class list of the captions; with `auto`, None where they are free text."""
    kinetics = [replace(clip, path=None) for clip in clips]
    try:
        return resolve_class_list(kinetics, class_list)
    except InputError:
        if class_list == "auto":
            return None
        raise


def read_embeddings(path: Path, row: int) -> EncodedClip | Failure:
    """Return one npy file as float16 embeddings, or why it is none."""
    if path.stat().st_size == 0:
        return Failure(row, "source", "empty_file", "the npy file has 0 bytes")
    try:
        array = decode_npy(path.read_bytes())
    except (ValueError, OSError):
        return Failure(row, "source", "unreadable", "the npy file cannot be read")
    judged = judge_array(array)
    if isinstance(judged, tuple):
        return Failure(row, "source", *judged)
    return EncodedClip(row, judged, None, None)
