"""An archive in, decode tasks out while it is read: clips are on disk only to be decoded.

FFmpeg wants files to seek in, so each clip is one from the moment it comes out of the archive until
its last frame is encoded: a few clips at a time, in a spool that is emptied in the end.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from clip_kinetics700_builder.decode.video import DecodeTask
from clip_kinetics700_builder.sources.archive import ArchiveClip, ArchiveReport, read_clips
from clip_kinetics700_builder.system.files import naming
from clip_kinetics700_builder.types import NO_BYTES, Archive, Failure


class ArchiveStream:
    """The clips of one archive, in its order; use it in a `with` block."""

    def __init__(self, archive: Archive, spool: Path, rows: Mapping[str, int]) -> None:
        """Read nothing yet.

        Args:
            archive: what is to be read.
            spool: a directory of this stream alone.
            rows: the plan row of each wanted clip by name, `ID_START_END`.
        """
        self.contents = ArchiveReport()
        self._archive = archive
        self._spool = spool
        self._rows = rows
        self._files: dict[int, Path] = {}
        self.n_done = 0
        """Clips that were dropped."""

    def __enter__(self) -> "ArchiveStream":
        """Begin with an empty spool: a killed run may have left clips in it."""
        shutil.rmtree(self._spool, ignore_errors=True)
        self._spool.mkdir(parents=True)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the spool."""
        shutil.rmtree(self._spool, ignore_errors=True)
        self.contents.warn(self._archive.name)

    @property
    def facts(self) -> dict[str, Any]:
        """What the report of the part is to say of the archive."""
        return {"n_clips_seen": self.contents.n_clips, "refusals": self.contents.refusals}

    def tasks(self, make_task: Callable[[int, Path], DecodeTask]) -> Iterator[DecodeTask | Failure]:
        """Yield a task for each wanted clip; of several files of one the first with bytes counts.

        Raises:
            FetchError: the archive cannot be read to its end: what came so far is not to be kept.
        """
        done, empty = set[int](), dict[int, Failure]()

        def wants(name: str) -> bool:
            row = self._rows.get(name)
            return row is not None and row not in done

        for clip in read_clips(self._archive.path, wants, self.contents):
            row = self._rows[clip.name]
            if len(clip.data) == 0:
                empty[row] = Failure(row, "source", "empty_file", NO_BYTES)
                continue
            done.add(row)
            yield make_task(row, self._write(row, clip))
        yield from (failure for row, failure in empty.items() if row not in done)

    def drop(self, row: int) -> None:
        """Remove the file of a clip that is done."""
        self.n_done += 1
        file = self._files.pop(row, None)
        if file is not None:
            file.unlink(missing_ok=True)

    def _write(self, row: int, clip: ArchiveClip) -> Path:
        # FFmpeg's guess at a container takes the name into account.
        file = self._files[row] = self._spool / f"{clip.name}.{clip.extension}"
        with naming(file):
            file.write_bytes(clip.data)
        return file
