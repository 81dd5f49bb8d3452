"""This program pushes what `load_dataset(DIR)` returns, as a user of `datasets` alone does."""

import argparse

import datasets


def main() -> None:
    """Load a dataset directory and push it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("repository")
    arguments = parser.parse_args()
    loaded = datasets.load_dataset(arguments.dataset)
    loaded.push_to_hub(arguments.repository)


if __name__ == "__main__":
    main()
