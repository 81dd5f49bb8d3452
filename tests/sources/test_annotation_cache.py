"""Annotations of a release are fetched once, from whichever source has them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clip_kinetics700_builder.clips.annotations import read_annotations
from clip_kinetics700_builder.config import AnnotationsConfig
from clip_kinetics700_builder.sources.annotation_cache import find_annotations
from clip_kinetics700_builder.types import InputError
from tests.support.hub.servers import Served, serve
from tests.support.kinetics.cvdf import make_cvdf_tree
from tests.support.kinetics.hostile_archives import HOSTILE
from tests.support.kinetics.miniature import ROWS, MiniKinetics


@pytest.fixture
def served(mini_kinetics: MiniKinetics, tmp_path: Path) -> Iterator[Served]:
    """A server of CVDF's tree of 700-2020, which has DeepMind's archive of 700 as well."""
    make_cvdf_tree(tmp_path / "tree", mini_kinetics, "700-2020")
    make_cvdf_tree(tmp_path / "other", mini_kinetics, "700")
    (tmp_path / "other/deepmind").rename(tmp_path / "tree/deepmind")
    with serve(tmp_path / "tree") as server:
        yield server


def fetch(served: Served, tmp_path: Path, version: str = "700", **options: Any) -> list[Path]:
    """Fetch into a cache of the test's own."""
    config = AnnotationsConfig(
        version=version,
        cache=tmp_path / "cache",
        base_url=served.url,
        annotations_url=f"{served.url}/deepmind",
        **options,
    )
    return list(find_annotations(config))


def test_deepminds_archive_gives_every_split(served: Served, tmp_path: Path) -> None:
    """Its tables are taken, not the JSON beside them, which lacks rows."""
    files = fetch(served, tmp_path)
    assert [file.name for file in files] == ["train.csv", "validate.csv", "test.csv"]
    assert len(read_annotations(files)) == len(ROWS)


def test_a_second_call_asks_nobody(served: Served, tmp_path: Path) -> None:
    """Annotations in the cache are taken from there, also those of one split."""
    files = fetch(served, tmp_path)
    served.forget()
    assert fetch(served, tmp_path) == files
    assert fetch(served, tmp_path, splits=("validation",)) == files[1:2]
    assert served.requests == []


def test_a_mirror_is_asked_first(served: Served, tmp_path: Path) -> None:
    """Where the release has annotations at CVDF, another base than CVDF's own comes first."""
    files = fetch(served, tmp_path, "700-2020")
    assert len(read_annotations(files)) == len(ROWS)
    assert {request.path.partition("/annotations/")[0] for request in served.requests} == {
        "/700_2020"
    }


def test_one_source_stands_in_for_the_other(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mirror that fails costs nothing where DeepMind's archive is there."""
    monkeypatch.setattr("clip_kinetics700.remote.PAUSE_SECONDS", 0.001)
    served.fail("700_2020/annotations", 503)
    archive = tmp_path / "tree/deepmind/kinetics700.tar.gz"
    archive.rename(archive.with_name("kinetics700_2020.tar.gz"))
    assert len(read_annotations(fetch(served, tmp_path, "700-2020"))) == len(ROWS)


@pytest.mark.parametrize("action", ["reset", "cut", 503])
def test_faults_in_passing_do_no_harm(
    action: Any, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that fails twice is tried again."""
    monkeypatch.setattr("clip_kinetics700.remote.PAUSE_SECONDS", 0.001)
    served.fail("kinetics700.tar.gz", action, times=2)
    assert len(read_annotations(fetch(served, tmp_path))) == len(ROWS)


@pytest.mark.parametrize("kind", ["truncated", "flipped", "wrong_checksum", "empty", "error_page"])
def test_a_damaged_archive_leaves_nothing_in_the_cache(
    kind: str, served: Served, tmp_path: Path
) -> None:
    """The error of a damaged archive names the address and the way out."""
    archive = tmp_path / "tree/deepmind/kinetics700.tar.gz"
    archive.write_bytes(HOSTILE[kind]("train.csv", b"label,youtube_id\n" * 1000))
    with pytest.raises(InputError, match=r"--annotations FILE. Tried: .*kinetics700\.tar\.gz"):
        fetch(served, tmp_path)
    assert not [path for path in (tmp_path / "cache").rglob("*.*") if path.suffix != ".lock"]


def test_a_file_that_is_no_list_is_refused(served: Served, tmp_path: Path) -> None:
    """A page that a mirror sends instead of a list never gets into the cache."""
    (tmp_path / "tree/700_2020/annotations/val.csv").write_text("<html>sorry</html>\n")
    with pytest.raises(InputError, match="the list of validation line 1: unknown header"):
        fetch(served, tmp_path, "700-2020", splits=("validation",))
    assert not list((tmp_path / "cache").rglob("*.csv"))


def test_a_directory_is_a_source_too(mini_kinetics: MiniKinetics, tmp_path: Path) -> None:
    """Both addresses may be local directories."""
    make_cvdf_tree(tmp_path / "tree", mini_kinetics, "400")
    config = AnnotationsConfig(
        version="400",
        cache=tmp_path / "cache",
        base_url=str(tmp_path / "tree"),
        annotations_url="/nowhere",
    )
    assert len(read_annotations(find_annotations(config))) == len(ROWS)
