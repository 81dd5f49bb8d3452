"""A stored plan in, its clips out, made when they are asked for.

So a plan of Kinetics-700 takes 30 MB of memory; as a list of clips it takes half a gigabyte.
"""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from builder.plan import find_splits, read_plan_table
from builder.types import Clip
from clip_kinetics700.index import column_list

ROWS_PER_PIECE = 1000
# Columns of few different values, by the thousand.
CODED = ("split", "label", "caption")
NO_VALUE = -1


class CodedColumn:
    """A column of texts as numbers of its different texts."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        """Take a column of texts and nulls."""
        encoded = column.combine_chunks().dictionary_encode()
        codes = encoded.indices.fill_null(NO_VALUE)
        self.codes: npt.NDArray[np.int32] = codes.to_numpy(zero_copy_only=False).copy()
        # NO_VALUE is the last one.
        self._texts: list[str | None] = [*encoded.dictionary.to_pylist(), None]

    def take(self, begin: int, end: int) -> list[str | None]:
        """Return the texts of consecutive rows."""
        texts = self._texts
        return [texts[code] for code in self.codes[begin:end].tolist()]

    def runs(self) -> Iterator[tuple[str, int]]:
        """Yield the runs of equal texts, each with its length; there must be no nulls."""
        begins = np.flatnonzero(np.diff(self.codes, prepend=NO_VALUE))
        lengths = np.diff(begins, append=len(self.codes))
        for code, length in zip(self.codes[begins].tolist(), lengths.tolist(), strict=True):
            yield str(self._texts[code]), length


class PlanTable:
    """The clips of a plan, in order."""

    def __init__(self, path: Path) -> None:
        """Read a plan.

        Raises:
            InputError: there is no such file, or it is no plan.
        """
        table = read_plan_table(path)
        self._coded = {name: CodedColumn(table.column(name)) for name in CODED}
        self._table = table.drop_columns([*CODED])
        self.spans = find_splits(self._coded["split"].runs())
        """The rows of each split."""

    def __len__(self) -> int:
        """Count the clips."""
        return int(self._table.num_rows)

    def __iter__(self) -> Iterator[Clip]:
        """Yield all clips."""
        for begin in range(0, len(self), ROWS_PER_PIECE):
            yield from self.take(range(begin, min(begin + ROWS_PER_PIECE, len(self))))

    def take(self, rows: range) -> list[Clip]:
        """Return the clips of consecutive rows."""
        piece = self._table.slice(rows.start, len(rows))
        columns = [
            self._coded[field.name].take(rows.start, rows.stop)
            if field.name in CODED
            else column_list(piece.column(field.name))
            for field in fields(Clip)
        ]
        return [Clip(*values) for values in zip(*columns, strict=True)]
