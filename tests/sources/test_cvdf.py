"""The lists tell which archives there are, and which of them may hold a wanted clip."""

from pathlib import Path

import pytest

from clip_kinetics700_builder.sources.cvdf import choose_archives, list_archives, measure_archive
from clip_kinetics700_builder.types import InputError
from tests.support.hub.servers import serve
from tests.support.kinetics.cvdf import make_cvdf_tree
from tests.support.kinetics.miniature import MiniKinetics


def test_names_with_blanks_become_addresses(mini_kinetics: MiniKinetics, tmp_path: Path) -> None:
    """Archives of K600 are named after classes, in quotes only where they are addresses."""
    tree = make_cvdf_tree(tmp_path, mini_kinetics, "600")
    with serve(tree.root) as served:
        archives = list_archives("600", ["validation"], served.url)
        sizes = [measure_archive(archive) for archive in archives]
    labels = {archive.label for archive in archives}
    assert "passing American football (in game)" in labels
    assert all(" " not in archive.path for archive in archives)
    assert all(isinstance(size, int) and size for size in sizes)
    assert len({archive.name for archive in archives}) == len(archives)


def test_a_directory_without_lists_is_listed(mini_kinetics: MiniKinetics, tmp_path: Path) -> None:
    """Where only archives lie they are taken in the order of their names."""
    tree = make_cvdf_tree(tmp_path, mini_kinetics, "400")
    expected = [archive.path for archive in list_archives("400", ["train"], str(tree.root))]
    (tree.root / "400/train/k400_train_path.txt").unlink()
    assert [a.path for a in list_archives("400", ["train"], str(tree.root))] == expected
    assert expected[0].endswith("replacement_for_corrupted_k400.tgz")


def test_classes_are_looked_up_once(mini_kinetics: MiniKinetics, tmp_path: Path) -> None:
    """The class of an archive is remembered, and only the archive of the class is chosen."""
    tree = make_cvdf_tree(tmp_path, mini_kinetics, "700-2020")
    known: dict[str, str | None] = {}
    with serve(tree.root) as served:
        archives = list_archives("700-2020", ["train"], served.url)
        chosen = choose_archives(archives, "700-2020", {"train": {"yoga"}}, known)
        assert [known[archive.name] for archive in chosen] == ["yoga"]
        served.forget()
        assert choose_archives(archives, "700-2020", {"train": {"yoga"}}, known) == chosen
        assert served.requests == []


@pytest.mark.parametrize(
    "line",
    [
        "https://elsewhere.example/a.tar.gz",
        "https://s3.amazonaws.com/kinetics/../../etc/passwd.tar",
        "https://s3.amazonaws.com/kinetics/400/train/part_0.zip",
        "<html>",
    ],
)
def test_a_list_of_something_else_is_refused(
    line: str, mini_kinetics: MiniKinetics, tmp_path: Path
) -> None:
    """A line that is no archive below the base is named with its number."""
    tree = make_cvdf_tree(tmp_path, mini_kinetics, "400")
    (tree.root / "400/train/k400_train_path.txt").write_text(f"\n{line}\n")
    with pytest.raises(InputError, match=r"k400_train_path\.txt line 2: .* is no archive below"):
        list_archives("400", ["train"], str(tree.root))
