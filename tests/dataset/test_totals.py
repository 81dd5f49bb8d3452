"""Totals count labels and lengths, and are added where all are known."""

import numpy as np
import pyarrow as pa

from clip_kinetics700_builder.dataset.totals import SampleTally, Totals, add_totals


def test_a_tally_counts_labels_and_lengths() -> None:
    """Nulls and labels of no class are in no class; lengths are in numeric order."""
    tally = SampleTally(3)
    tally.add(pa.array([0, None, 2, 7, -1], pa.int64()), (10, 2, 10, 1, 2))
    tally.add(pa.array([2], pa.int64()), np.array([100]))
    assert tally.samples_by_label == [1, 0, 2]
    assert list(tally.samples_by_n_frames.items()) == [("1", 1), ("2", 2), ("10", 2), ("100", 1)]
    assert tally.frames == 125
    assert SampleTally(None).samples_by_label is None


def test_totals_are_added_only_where_all_are_known() -> None:
    """The whole has the sums of its splits, and none where one of them was not counted."""
    one = Totals(samples=1, samples_by_label=[1, 0], samples_by_n_frames={"10": 1})
    two = Totals(samples=2, samples_by_label=[1, 1], samples_by_n_frames={"2": 1, "10": 1})
    whole = add_totals({"train": one, "test": two})
    assert whole.samples_by_label == [2, 1]
    assert list((whole.samples_by_n_frames or {}).items()) == [("2", 1), ("10", 2)]
    old = add_totals({"train": one, "test": Totals(samples=2)})
    assert (old.samples_by_label, old.samples_by_n_frames) == (None, None)
    assert "samples_by_label" not in old.document()
