"""A download of some samples counts what is on disk, and makes up for what fails."""

from pathlib import Path

from tests.support.hub.servers import serve
from tests.support.kinetics.cvdf import CvdfTree
from tests.support.kinetics.downloads import download_tree, list_clips, read_ledger, whole_clips
from tests.support.kinetics.miniature import ROWS


def test_max_samples_counts_what_is_there(trees: dict[str, CvdfTree], tmp_path: Path) -> None:
    """`max_samples` bounds each split, with clips on disk first; the next request adds more."""
    tree = trees["600"]
    download_tree(tree, tmp_path, max_samples=2)
    first = list_clips(tmp_path)
    assert len(first) == 6
    download_tree(tree, tmp_path, max_samples=3)
    second = list_clips(tmp_path)
    assert len(second) == 9
    assert first.items() <= second.items()


def test_a_failed_archive_is_made_up_for(trees: dict[str, CvdfTree], tmp_path: Path) -> None:
    """Other clips come in the place of those of a damaged archive, and none is called absent."""
    tree = trees["600"]
    with serve(tree.root) as served:
        served.fail("train/yoga.tar", 404)
        served.fail("train/archery.tar", 404)
        download_tree(tree, tmp_path, base_url=served.url, max_samples=5, splits=("train",))
    assert len(list_clips(tmp_path)) == 5
    assert {a.reason for a in read_ledger(tmp_path) if a.reason} <= {"empty_file"}


def test_a_directory_makes_up_for_its_empty_files(
    trees: dict[str, CvdfTree], tmp_path: Path
) -> None:
    """Two clips are wanted, and two come, although three of the five files are empty."""
    held, names = tmp_path / "held", sorted(whole_clips(trees["600"]))
    held.mkdir()
    train = [
        name for name in names if any(r.file_name == name and r.split == "train" for r in ROWS)
    ]
    for number, name in enumerate(train[:5]):
        (held / name).write_bytes(b"clip" if number > 2 else b"")
    download_tree(
        trees["600"], tmp_path / "out", source=(str(held),), max_samples=2, splits=("train",)
    )
    assert set(list_clips(tmp_path / "out")) == set(train[3:5])


def test_a_random_sample_is_that_of_its_seed(trees: dict[str, CvdfTree], tmp_path: Path) -> None:
    """Shuffled, the clips follow from the seed; one that fails is replaced by the next."""
    tree = trees["400"]
    names = []
    for number, seed in enumerate((1, 1, 2)):
        output = tmp_path / str(number)
        download_tree(tree, output, max_samples=4, shuffle=True, seed=seed)
        names.append(set(list_clips(output)))
    assert names[0] == names[1] != names[2]
    assert [len(group) for group in names] == [12, 12, 12]
