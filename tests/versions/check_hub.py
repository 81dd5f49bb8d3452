"""Run in an environment that has only `datasets`: does a published dataset load from the Hub?

In: the dataset directory that was published, HF_ENDPOINT, and repositories made of it. Out: one
line per claim; a claim that fails is an AssertionError.
"""

import argparse
import importlib.util
from functools import partial
from pathlib import Path

import datasets
from check import check, read_expected


def main() -> None:
    """Check each repository, map-style and streaming."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--commit", help="of the branch `train-only` of the published repository")
    arguments = parser.parse_args()
    for package in ("torch", "clip_kinetics700", "builder"):
        assert importlib.util.find_spec(package) is None, f"{package} must not be installed here"
    expected = read_expected(arguments.dataset)
    load = partial(datasets.load_dataset, "alice/published")
    check("load_dataset(REPO)", expected, lambda **kw: load(**kw))
    train = {"train": expected["train"]}
    check("revision=BRANCH", train, lambda **kw: load(revision="train-only", **kw))
    check("revision=COMMIT", train, lambda **kw: load(revision=arguments.commit, **kw))
    # What was pushed says `List` in card and files; before 4.0 it is read as a list of any length.
    keeps_width = int(datasets.__version__.split(".")[0]) >= 4
    for name in ("alice/pushed-xet", "alice/pushed-lfs"):
        load = partial(datasets.load_dataset, name)
        check(f"push_to_hub, {name}", expected, lambda **kw: load(**kw), keeps_width=keeps_width)


if __name__ == "__main__":
    main()
