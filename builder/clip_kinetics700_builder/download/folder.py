"""Keeps a directory of clips as `datasets` (videofolder) and torchvision (class folders) want it.

Clips lie in `SPLIT/CLASS/ID_START_END.EXT`, those without a class in `SPLIT/`; each split has a
`metadata.jsonl` with captions. A clip is got if its file is in the directory, whoever put it there.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from clip_kinetics700_builder.clips.releases import SPLIT_FOLDERS
from clip_kinetics700_builder.sources.directory import index_videos
from clip_kinetics700_builder.system.files import write_text
from clip_kinetics700_builder.types import Clip

MAX_NAME_BYTES = 255
METADATA_NAME = "metadata.jsonl"
STATE_NAME = ".download"
"""Hidden directory for the ledger and for what is not whole yet; `datasets` does not look there."""


def place_clip(directory: Path, clip: Clip, extension: str) -> Path:
    """Return where the file of a clip goes; any label becomes the name of one directory."""
    folder = directory / SPLIT_FOLDERS[clip.split]
    name = shorten_name(re.sub(r"[/\0]", "_", clip.label or "").strip(". "))
    return (folder / name if name else folder) / f"{clip.file_stem}.{extension}"


def shorten_name(name: str) -> str:
    """Return a name that any file system takes; another one for each that is too long."""
    data = name.encode("utf-8")
    if len(data) <= MAX_NAME_BYTES:
        return name
    mark = f"~{hashlib.sha256(data).hexdigest()[:8]}"
    return data[: MAX_NAME_BYTES - len(mark)].decode("utf-8", "ignore") + mark


def write_metadata(directory: Path, clips: Iterable[Clip]) -> None:
    """Write captions, labels and times of those clips that are there, beside each split's."""
    lines: dict[str, dict[str, str]] = {}
    for clip, path in find_held(directory, clips):
        folder = directory / SPLIT_FOLDERS[clip.split]
        if path.is_relative_to(folder):
            row = {
                "file_name": path.relative_to(folder).as_posix(),
                "caption": clip.caption,
                # A text in every line: from nulls alone, readers cannot tell the type.
                "label": clip.label or "",
                "youtube_id": clip.video_id,
                "time_start": clip.time_start,
                "time_end": clip.time_end,
            }
            line = json.dumps(row, ensure_ascii=False) + "\n"
            lines.setdefault(clip.split, {})[str(row["file_name"])] = line
    for split, by_name in lines.items():
        text = "".join(by_name[name] for name in sorted(by_name))
        write_text(directory / SPLIT_FOLDERS[split] / METADATA_NAME, text)


def list_held(directory: Path, clips: Iterable[Clip]) -> set[str]:
    """Return the identities of the clips that a directory holds."""
    return {clip.identity for clip, _ in find_held(directory, clips)}


def find_held(directory: Path, clips: Iterable[Clip]) -> Iterator[tuple[Clip, Path]]:
    """Yield each clip whose file is in a directory and not empty, with the file."""
    index = index_videos(directory)
    for clip in clips:
        path = index.find(clip)
        if path is not None and path.stat().st_size > 0:
            yield clip, path
