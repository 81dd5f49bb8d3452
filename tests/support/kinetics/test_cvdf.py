"""The trees and the hostile archives of the tests hold what they are said to hold."""

import gzip
import io
import tarfile
import zlib
from pathlib import Path, PurePosixPath

import pytest

from clip_kinetics700.classes import class_names
from clip_kinetics700_builder.clips.annotations import read_annotations
from tests.support.kinetics.cvdf import BASE_URL, CvdfTree, make_cvdf_tree
from tests.support.kinetics.hostile_archives import (
    BOMB_BYTES,
    BOMB_PIECE_BYTES,
    HOSTILE,
    SOUND,
    make_bomb,
)
from tests.support.kinetics.miniature import ROWS, MiniKinetics

VERSIONS = ("400", "600", "700", "700-2020")
GOOD_NAME, GOOD = "goodclip--1_000001_000011.mp4", b"a clip"


@pytest.fixture(params=VERSIONS)
def tree(request: pytest.FixtureRequest, tmp_path: Path, mini_kinetics: MiniKinetics) -> CvdfTree:
    """The tree of each release."""
    return make_cvdf_tree(tmp_path / "bucket", mini_kinetics, request.param)


def read_files(tree: CvdfTree) -> dict[str, bytes]:
    """Return the files of all archives by name, the overlays last."""
    found: dict[str, bytes] = {}
    for path in [*tree.archives, *tree.overlays]:
        with tarfile.open(path) as tar:
            for entry in tar:
                file = tar.extractfile(entry)
                if file is not None:
                    found[PurePosixPath(entry.name).name] = file.read()
    return found


def test_archives_hold_what_a_download_must_bring(tree: CvdfTree) -> None:
    """As `tarfile` reads them, the archives hold the promised clips and those nobody wants."""
    found = read_files(tree)
    clips = {name: data for name, data in found.items() if not name.startswith("._")}
    assert clips.keys() - tree.extra == tree.clips.keys()
    assert {name: clips[name] for name in tree.clips} == tree.clips
    assert {row.file_name for row in ROWS} == tree.clips.keys() | tree.missing
    assert len(tree.missing) == 2
    assert len(found) > len(clips)


def test_annotations_are_those_of_the_miniature(
    tree: CvdfTree, mini_kinetics: MiniKinetics
) -> None:
    """Each dialect of the annotations gives the same clips."""
    words = ("train", "validate", "test")
    expected = read_annotations([mini_kinetics.annotations / f"{word}.csv" for word in words])
    assert read_annotations(tree.annotations) == expected


def test_lists_name_the_archives(tree: CvdfTree) -> None:
    """The lists hold whole addresses, one a line, of all archives in their order."""
    folder = tree.archives[0].parent.parent
    lines: list[str] = []
    for word in ("train", "val", "test"):
        lines += (folder / f"{word}/k{folder.name}_{word}_path.txt").read_text("utf-8").splitlines()
    assert [tree.root / line.removeprefix(BASE_URL) for line in lines] == tree.archives


def test_numbers_of_archives_are_no_classes(tmp_path: Path, mini_kinetics: MiniKinetics) -> None:
    """No archive of 2020 has the number of its class."""
    tree = make_cvdf_tree(tmp_path, mini_kinetics, "700-2020")
    for path in tree.archives[:-1]:
        with tarfile.open(path) as tar:
            label = tar.getnames()[0].split("/")[-2 if "." in tar.getnames()[0] else -1]
        assert class_names("700").index(label) != int(path.name[-10:-7])


def test_trees_are_the_same_bytes(tmp_path: Path, mini_kinetics: MiniKinetics) -> None:
    """Two trees of one release are the same, so that datasets of them can be compared."""
    trees = [make_cvdf_tree(tmp_path / name, mini_kinetics, "400") for name in "ab"]
    a, b = (
        {path.relative_to(tree.root): path.read_bytes() for path in tree.root.rglob("*.*gz")}
        for tree in trees
    )
    assert a == b


@pytest.mark.parametrize("name", sorted(SOUND))
def test_sound_hostile_archives_hold_the_clip(name: str) -> None:
    """By `tarfile`, an archive that is called sound holds the clip beside a hostile member."""
    data = HOSTILE[name](GOOD_NAME, GOOD)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        held = [
            file.read()
            for entry in tar.getmembers()
            if entry.type == tarfile.REGTYPE and not entry.issparse() and entry.size < 100
            if entry.name.endswith(GOOD_NAME) and (file := tar.extractfile(entry)) is not None
        ]
        assert len(tar.getmembers()) == 2
    assert GOOD in held


@pytest.mark.parametrize("name", ["truncated", "flipped", "wrong_checksum", "garbage_after_end"])
def test_damaged_archives_are_no_gzip(name: str) -> None:
    """Damage in gzip is seen by whoever reads it to its end."""
    with pytest.raises((EOFError, zlib.error, gzip.BadGzipFile), match=r"."):
        gzip.decompress(HOSTILE[name](GOOD_NAME, GOOD))


@pytest.mark.parametrize("name", ["bomb_after_end", "bomb_member"])
def test_bombs_are_small_outside(name: str) -> None:
    """A bomb of 3 GB has 4 MB at most, and each of its members is good gzip."""
    data = HOSTILE[name](GOOD_NAME, GOOD)
    assert len(data) < 4 << 20
    assert make_bomb() in data
    count = BOMB_BYTES // BOMB_PIECE_BYTES
    piece = make_bomb()[: len(make_bomb()) // count]
    assert piece * count == make_bomb()
    assert len(gzip.decompress(piece)) == BOMB_PIECE_BYTES
