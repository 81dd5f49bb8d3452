"""Decodes the clips of an archive while it is read, so that they need no room on disk.

FFmpeg needs files to seek in: each clip is a file from the moment it comes out of the archive until
its last frame is encoded. Only a few clips lie in the spool at a time.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from clip_kinetics700_builder.decode.video import DecodeTask
from clip_kinetics700_builder.sources.archive import ArchiveReport, read_clips
from clip_kinetics700_builder.system.files import naming
from clip_kinetics700_builder.types import NO_BYTES, Archive, Failure

MakeTask = Callable[[int, Path], DecodeTask]


class ArchiveStream:
    """Makes decode tasks of the clips of one archive, in its order."""

    def __init__(self, archive: Archive, spool: Path, rows: Mapping[str, int]) -> None:
        """Read nothing yet; the spool is of this stream alone, rows are those of wanted clips."""
        self._archive = archive
        self._spool = spool
        self._rows = rows
        self._files: dict[int, Path] = {}
        self.report = ArchiveReport()
        """What was seen since the archive was opened."""
        self.n_done = 0
        """Clips that were dropped since the archive was opened."""

    @contextmanager
    def open_tasks(self, make_task: MakeTask) -> Iterator[Iterator[DecodeTask | Failure]]:
        """Open the archive from its start; yield its tasks. The block removes the spool.

        Raises:
            FetchError: the archive cannot be read to its end; the clips before cannot be trusted.
        """
        self.report, self.n_done = ArchiveReport(), 0
        # A killed run may have left clips there.
        shutil.rmtree(self._spool, ignore_errors=True)
        self._spool.mkdir(parents=True)
        try:
            yield self._list_tasks(make_task)
        finally:
            shutil.rmtree(self._spool, ignore_errors=True)
            self.report.warn(self._archive.name)

    def _list_tasks(self, make_task: MakeTask) -> Iterator[DecodeTask | Failure]:
        """Yield a task for each wanted clip; of several files of a clip, the first with bytes."""
        done, empty = set[int](), dict[int, Failure]()

        def wants(name: str) -> bool:
            row = self._rows.get(name)
            return row is not None and row not in done

        for clip in read_clips(self._archive.path, wants, self.report):
            row = self._rows[clip.name]
            if len(clip.data) == 0:
                empty[row] = Failure(row, "source", "empty_file", NO_BYTES)
                continue
            done.add(row)
            # FFmpeg's guess at a container takes the name into account.
            file = self._files[row] = self._spool / f"{clip.name}.{clip.extension}"
            with naming(file):
                file.write_bytes(clip.data)
            yield make_task(row, file)
        yield from (failure for row, failure in empty.items() if row not in done)

    def drop(self, row: int) -> None:
        """Remove the file of a clip that is done, if it had one."""
        self.n_done += 1
        if row in self._files:
            self._files.pop(row).unlink(missing_ok=True)
