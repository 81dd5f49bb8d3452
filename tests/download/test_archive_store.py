"""Whatever fails or harms on the way, an archive gives its right clips, or none and a reason."""

from pathlib import Path
from typing import Any

import pytest

from clip_kinetics700_builder.download.archive_store import write_staged
from clip_kinetics700_builder.sources.archive import ArchiveClip
from tests.support.hub.faults import Action
from tests.support.hub.servers import serve
from tests.support.kinetics.cvdf import CvdfTree
from tests.support.kinetics.downloads import download_tree, list_clips, read_ledger, whole_clips
from tests.support.kinetics.hostile_archives import EVIL_DIRECTORY, HOSTILE, SOUND


def test_what_a_kill_left_unchecked_does_not_count(
    trees: dict[str, CvdfTree], tmp_path: Path
) -> None:
    """Clips that were unpacked before their archive's checksum was right are not taken as got."""
    tree = trees["600"]
    download_tree(tree, tmp_path, classes=("archery",))
    clip = ArchiveClip("yoga-yoga-1_000033_000043", "mp4", "", b"half")
    staging = tmp_path / ".download/staging/train-yoga"
    staging.mkdir(parents=True)
    write_staged(staging, clip)
    download_tree(tree, tmp_path)
    assert list_clips(tmp_path) == whole_clips(tree)


@pytest.mark.parametrize("seed", range(4))
def test_faults_end_right(
    seed: int, trees: dict[str, CvdfTree], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every clip comes in the end, despite resets, cut and wrong bodies and server errors."""
    monkeypatch.setattr("clip_kinetics700.remote.PAUSE_SECONDS", 0.001)
    tree = trees["700-2020"]
    actions: list[Action | int] = ["reset", "cut", "short", "long", 500, 503, 429]
    with serve(tree.root) as served:
        served.fail_randomly(seed, 0.2, actions, pattern=".tar")
        for _ in range(6):
            download_tree(tree, tmp_path, base_url=served.url, retry_errors=())
    assert list_clips(tmp_path) == whole_clips(tree)


def test_a_flipped_bit_is_fetched_again(trees: dict[str, CvdfTree], tmp_path: Path) -> None:
    """One wrong bit is found by gzip's checksum; fetched anew, the archive's clips are right."""
    tree = trees["600"]
    with serve(tree.root) as served:
        served.fail("train/yoga.tar", "flip", times=2)
        download_tree(tree, tmp_path, base_url=served.url)
    assert list_clips(tmp_path) == whole_clips(tree)


@pytest.mark.parametrize(
    ("action", "reason"),
    [("flip", "checksum"), (404, "http_404")],
)
def test_lasting_faults_are_typed(
    action: Any, reason: str, trees: dict[str, CvdfTree], tmp_path: Path
) -> None:
    """An archive that never comes right costs its clips, whose rows say why."""
    tree = trees["600"]
    with serve(tree.root) as served:
        served.fail("train/yoga.tar", action)
        download_tree(tree, tmp_path, base_url=served.url)
    reasons = {a.youtube_id: a.reason for a in read_ledger(tmp_path) if a.reason}
    assert reasons["yoga-yoga-1"] == reason
    assert len(list_clips(tmp_path)) == len(whole_clips(tree)) - 1


@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_hostile_archives_write_nothing_outside(
    kind: str, trees: dict[str, CvdfTree], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A hostile archive gives its good clip or none, and all others come."""
    tree = trees["600"]
    name = "yoga-yoga-1_000033_000043.mp4"
    archive = next(path for path in tree.archives if path.name == "yoga.tar.gz")
    whole = archive.read_bytes()
    archive.write_bytes(HOSTILE[kind](name, tree.clips[name]))
    try:
        download_tree(tree, tmp_path / "out")
    finally:
        archive.write_bytes(whole)
    expected = whole_clips(tree)
    if kind not in SOUND:
        del expected[name]
    assert list_clips(tmp_path / "out") == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not Path(EVIL_DIRECTORY).exists()
    if kind in ("parent", "symbolic_link", "huge_size", "sparse"):
        assert "train-yoga: refused " in caplog.text
