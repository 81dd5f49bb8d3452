"""Counts over many samples give the right medians and names."""

import statistics
from collections import Counter

import numpy as np
import pytest

from clip_kinetics700_builder.read.info_counts import (
    Classes,
    SeenNames,
    describe_counts,
    describe_norms,
)


def test_medians_of_counts_are_exact() -> None:
    """The median of counted numbers is that of all of them written out."""
    rng = np.random.default_rng(0)
    for n_numbers in range(1, 30):
        numbers = rng.integers(0, 6, n_numbers).tolist()
        described = describe_counts(Counter(numbers)) or {}
        assert described["median"] == statistics.median(numbers)
    assert describe_counts(Counter()) is None


def test_norms_are_described_over_all_batches() -> None:
    """Over many magnitudes and pieces median and mean are those of all; of none there are none."""
    rng = np.random.default_rng(0)
    values = np.exp(rng.uniform(-20, 20, 200_001)).astype(np.float32)
    described = describe_norms(np.array_split(values, 77)) or {}
    assert described["median"] == float(np.median(values))
    assert described["mean"] == pytest.approx(float(values.mean(dtype=np.float64)))
    assert describe_norms([]) is None


def test_names_are_found_again() -> None:
    """A name that comes again is found, in its group and in another."""
    seen = SeenNames()
    for name in ("a0", "a1", "a0", "b", "b"):
        seen.add(name, "train")
    for name in ("a1", "c", "b"):
        seen.add(name, "test")
    assert (seen.again.count, seen.again.first) == (2, "a0")
    assert (seen.elsewhere.count, seen.elsewhere.first) == (2, "a1")


def test_free_text_is_no_endless_list_of_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captions beyond a limit are not collected, and it is said that there are more."""
    monkeypatch.setattr("clip_kinetics700_builder.read.info_counts.MAX_CLASSES", 3)
    classes = Classes()
    for name in ("a", "b", "", "c", "d", "a"):
        classes.add(name)
    assert classes.counts == {"a": 2, "b": 1, "c": 1}
    assert (classes.n_missing, classes.is_complete) == (1, False)
