"""Row groups of samples in; the rows of the index, and what the manifest counts of them, out.

Every sample of a dataset passes here exactly once, whether its shard is written or was finished.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from builder.manifest import Totals
from builder.row_groups import RowGroup
from builder.shard_reports import Shard
from builder.shard_writers import TableFile
from builder.tally import SampleTally


class SampleIndex:
    """The index of a dataset, and the counts of the samples in it."""

    def __init__(self, table: TableFile, class_names: Sequence[str] | None) -> None:
        """Write to this table; None where the dataset has no classes."""
        self._table = table
        self._n_classes = None if class_names is None else len(class_names)
        self._tallies: dict[str, SampleTally] = {}

    def add(self, group: RowGroup, shard: Shard) -> None:
        """Take samples of a shard."""
        self._table.add_table(group.index_table(shard.split, shard.tar))
        self._tally(shard.split).add(group.columns["label_id"], group.lengths)

    def complete(self, totals: Mapping[str, Totals]) -> dict[str, Totals]:
        """Return the counts of each split with those of its samples by label and by frames."""
        return {
            split: replace(
                counts,
                samples_by_label=self._tally(split).samples_by_label,
                samples_by_n_frames=self._tally(split).samples_by_n_frames,
            )
            for split, counts in totals.items()
        }

    def _tally(self, split: str) -> SampleTally:
        return self._tallies.setdefault(split, SampleTally(self._n_classes))
