"""Assembly writes one layout whatever results come, and nothing of an old one stays."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from clip_kinetics700_builder.assemble.assemble import assemble_directory
from clip_kinetics700_builder.config import AssembleConfig
from clip_kinetics700_builder.types import BuildError, InputError
from clip_kinetics700_builder.verify.dataset import verify_dataset
from tests.support.datasets.builds import RunBuild, edit_report, published_hashes, run_cli
from tests.support.processes.checkout import SOURCE_PATHS

WIDTH = 6


def write_triple(
    directory: Path, name: str, array: Any, *, text: str | None, document: Any = None
) -> None:
    """Write the files of one clip of a processed dataset."""
    directory.mkdir(parents=True, exist_ok=True)
    np.save(directory / f"{name}.npy", array)
    if text is not None:
        (directory / f"{name}.txt").write_text(text, encoding="utf-8")
    if document is not None:
        (directory / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")


@pytest.fixture
def processed(tmp_path: Path) -> Path:
    """A processed dataset: float32 and float16, with and without json, one of no frames."""
    directory = tmp_path / "processed"
    generator = np.random.default_rng(0)
    for number in range(4):
        array = generator.standard_normal((number + 1, WIDTH)).astype(np.float32)
        times = {"videoID": "abcdefghijk", "start_time": f"{number:06d}", "end_time": number + 10}
        write_triple(directory / "train", f"vid{number}", array, text="yoga", document=times)
    write_triple(directory / "val", "a.b", np.ones((2, WIDTH), np.float16), text="archery")
    write_triple(directory / "test", "silent", np.ones((3, WIDTH), np.float16), text=None)
    write_triple(directory / "test", "short", np.ones((0, WIDTH), np.float16), text="")
    return directory


def assemble(source: Path, output: Path, **options: Any) -> dict[str, Any]:
    """Assemble with two samples a shard; return the manifest."""
    config = AssembleConfig(
        source=source, output=output, samples_per_shard=2, figures=False, **options
    )
    return dict(assemble_directory(config).document)


def test_a_processed_dataset_is_assembled(processed: Path, tmp_path: Path) -> None:
    """Triples become the layout, 0-row ones failures; captions get their Kinetics class."""
    manifest = assemble(processed, tmp_path / "out")
    rows = pq.read_table(tmp_path / "out/index.parquet").to_pylist()
    captions = sorted((row["split"], row["caption"], row["label_id"]) for row in rows)
    yoga = manifest["class_names"].index("yoga")
    assert captions[1:] == [("train", "yoga", yoga)] * 4 + [("validation", "archery", 9)]
    assert captions[0] == ("test", "", None)
    assert manifest["totals"]["failures_by_reason"] == {"no_frames": 1}
    assert manifest["configuration"]["provenance"] == "unknown"
    assert verify_dataset(tmp_path / "out") == []


def test_triples_keep_their_values_and_times(processed: Path, tmp_path: Path) -> None:
    """Values are the files' in float16, times those of the json, names the video's."""
    assemble(processed, tmp_path / "out")
    table = pq.read_table(tmp_path / "out/data/train-00000-of-00002.parquet").to_pylist()
    for row in table:
        number = row["meta"]["time_start"]
        stored = np.load(processed / f"train/vid{number}.npy").astype(np.float16)
        assert np.array_equal(np.asarray(row["embeddings"], np.float16), stored)
        assert row["meta"]["time_end"] == number + 10
        assert row["meta"]["youtube_id"] == "abcdefghijk"


def test_widths_that_differ_are_refused(processed: Path, tmp_path: Path) -> None:
    """One file of another width is named."""
    write_triple(processed / "val", "wide", np.ones((1, WIDTH + 1), np.float16), text="x")
    with pytest.raises(InputError, match=r"wide\.npy: is 7 wide|is 6 wide, files before it 7"):
        assemble(processed, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.json"))


def test_a_processed_dataset_is_assembled_when_it_has_changed(
    processed: Path, tmp_path: Path
) -> None:
    """The same files have nothing to do, another failure in the place of one does."""
    first = tmp_path / "out/ds_000000.tar"
    assemble(processed, tmp_path / "out")
    inode = first.stat().st_ino
    assemble(processed, tmp_path / "out")
    assert first.stat().st_ino == inode
    broken = next((processed / "train").glob("*.npy"))
    for content, reason in ((b"", "empty_file"), (b"\x93NUMPY", "unreadable")):
        broken.write_bytes(content)
        manifest = assemble(processed, tmp_path / "out")
        assert manifest["totals"]["failures_by_reason"] == {"no_frames": 1, reason: 1}


def test_free_captions_have_no_classes(tmp_path: Path) -> None:
    """Captions that are no class names are kept, without label ids."""
    directory = tmp_path / "processed"
    write_triple(directory / "train", "a", np.ones((1, WIDTH), np.float16), text="a dog runs")
    assert assemble(directory, tmp_path / "out")["class_names"] is None


@pytest.mark.parametrize(("content", "reason"), [(b"", "empty_file"), (b"\x93NUMPY", "unreadable")])
def test_damaged_triples_are_failures(
    processed: Path, tmp_path: Path, content: bytes, reason: str
) -> None:
    """An npy file that cannot be read is a row of failures.parquet, not a lost one."""
    (processed / "train/vid0.npy").write_bytes(content)
    manifest = assemble(processed, tmp_path / "out")
    assert manifest["totals"]["failures_by_reason"] == {"no_frames": 1, reason: 1}
    assert manifest["totals"]["rows"] == 7


def test_pickles_are_not_loaded(processed: Path, tmp_path: Path) -> None:
    """An npy file of objects fails as unreadable and is never unpickled."""
    np.save(processed / "train/vid0.npy", np.asarray([{"a": 1}], object), allow_pickle=True)
    manifest = assemble(processed, tmp_path / "out")
    assert manifest["totals"]["failures_by_reason"]["unreadable"] == 1


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    """A directory of something else is refused in one line, without an output."""
    with pytest.raises(InputError, match="holds neither the parts"):
        assemble(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unfinished_parts_are_refused(run_build: RunBuild, tmp_path: Path) -> None:
    """Assembly of a build whose other rank is missing names the first missing part."""
    run_build(tmp_path / "out", rank=0, world_size=2, splits=("train", "test"))
    with pytest.raises(InputError, match="1 of 2 parts are not finished, the first is test-00000"):
        assemble(tmp_path / "out", tmp_path / "other")


@pytest.fixture
def own_dataset(dataset: Path, tmp_path: Path) -> Path:
    """A copy of the built miniature, parts included."""
    return Path(shutil.copytree(dataset, tmp_path / "own"))


def test_assembling_again_gives_the_same_files(own_dataset: Path, dataset: Path) -> None:
    """Shards that went missing come back as they were, others left over are removed."""
    (own_dataset / "ds_000001.tar").unlink()
    (own_dataset / "ds_000099.tar").write_bytes(b"old")
    (own_dataset / "data/train-00000-of-00099.parquet").write_bytes(b"old")
    outcome = run_cli(
        "assemble", own_dataset, "--no-figures", "--output", own_dataset, "--samples-per-shard", "5"
    )
    assert outcome.returncode == 0, outcome.stderr
    assert published_hashes(own_dataset) == published_hashes(dataset)


def test_another_processed_dataset_is_refused(processed: Path, tmp_path: Path) -> None:
    """An output holds one dataset: other rows, or other classes, are named and refused."""
    assemble(processed, tmp_path / "out")
    with pytest.raises(InputError, match="class_names was"):
        assemble(processed, tmp_path / "out", class_list="400")
    shutil.rmtree(processed / "val")
    with pytest.raises(InputError, match=r"rows\.validation was 1, now nothing"):
        assemble(processed, tmp_path / "out")


def test_options_of_a_processed_dataset_are_refused_for_parts(
    own_dataset: Path, tmp_path: Path
) -> None:
    """--seed and --class-list would do nothing to parts, which is said."""
    outcome = run_cli("assemble", own_dataset, "--output", tmp_path / "x", "--seed", "1")
    assert outcome.returncode == 2
    assert "are for a processed dataset" in outcome.stderr


@pytest.mark.parametrize(
    ("field", "message"),
    [("canary", "gives another embedding than"), ("rows", "not those of the plan")],
)
def test_a_part_of_another_build_is_refused(
    own_dataset: Path, tmp_path: Path, field: str, message: str
) -> None:
    """A part of another encoder, or of other rows, is named and not mixed in."""
    path = own_dataset / ".build/parts/test-00000.json"
    values = json.loads(path.read_text(encoding="utf-8"))[field]
    edit_report(own_dataset, "test-00000", **{field: values[::-1]})
    with pytest.raises(BuildError, match=f"part test-00000: .*{message}"):
        assemble(own_dataset, tmp_path / "other")


def test_cut_off_files_of_an_earlier_assembly_are_removed(own_dataset: Path, dataset: Path) -> None:
    """What a kill left under a partial name, or of another format, does not stay."""
    (own_dataset / "manifest.json").unlink()
    for name in ("data/train-00001-of-00003.parquet.partial", "ds_000009.tar.partial"):
        (own_dataset / name).write_bytes(b"half")
    options = ("--samples-per-shard", "5")
    outcome = run_cli("assemble", own_dataset, "--no-figures", "--output", own_dataset, *options)
    assert outcome.returncode == 0, outcome.stderr
    assert published_hashes(own_dataset) == published_hashes(dataset)


def test_a_change_of_formats_after_a_kill_leaves_no_splits_csv(own_dataset: Path) -> None:
    """Without its manifest an assembly is not finished, and another one may take its place."""
    (own_dataset / "manifest.json").unlink()
    run_cli(
        "assemble", own_dataset, "--no-figures", "--output", own_dataset, "--formats", "parquet"
    )
    assert verify_dataset(own_dataset) == []


def test_another_shard_size_is_refused(own_dataset: Path) -> None:
    """The same output with other shards is an error that names the difference."""
    outcome = run_cli(
        "assemble", own_dataset, "--no-figures", "--output", own_dataset, "--samples-per-shard", "4"
    )
    assert outcome.returncode == 2
    assert "samples_per_shard was 5, now 4" in outcome.stderr


@pytest.mark.parametrize("formats", ["parquet", "webdataset"])
def test_one_format_alone(own_dataset: Path, tmp_path: Path, formats: str) -> None:
    """With one format the other's files are not there, and the dataset verifies."""
    outcome = run_cli("assemble", own_dataset, "--output", tmp_path / "one", "--formats", formats)
    assert outcome.returncode == 0, outcome.stderr
    assert (tmp_path / "one/data").exists() == (formats == "parquet")
    assert (tmp_path / "one/splits.csv").exists() == (formats == "webdataset")
    assert verify_dataset(tmp_path / "one") == []


def test_a_damaged_part_is_named(own_dataset: Path, tmp_path: Path) -> None:
    """A part whose file was cut is an error with its name, not a dataset with a hole."""
    part = own_dataset / ".build/parts/train-00000.arrow"
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(BuildError, match="part train-00000"):
        assemble(own_dataset, tmp_path / "other")


def test_a_date_comes_only_when_given(processed: Path, tmp_path: Path) -> None:
    """The manifest holds the date of --date, and none by itself."""
    assert assemble(processed, tmp_path / "a")["date"] is None
    assert assemble(processed, tmp_path / "b", date="2026-01-02")["date"] == "2026-01-02"


def test_the_format_is_pinned(processed: Path, tmp_path: Path) -> None:
    """The first members of a tar are these bytes: key, header, npy 1.0, caption, json."""
    assemble(processed, tmp_path / "out")
    with tarfile.open(tmp_path / "out/ds_000002.tar") as tar:
        contents = {m.name: tar.extractfile(m) for m in tar.getmembers()}
        members = {name: (f or io.BytesIO()).read() for name, f in contents.items()}
    assert list(members) == ["vid_000000004.json", "vid_000000004.npy", "vid_000000004.txt"]
    npy = members["vid_000000004.npy"]
    header = b"{'descr': '<f2', 'fortran_order': False, 'shape': (2, 6), }"
    assert npy[:10] == b"\x93NUMPY\x01\x00v\x00"
    assert npy[10 : 10 + len(header)] == header
    assert npy[128:] == np.ones((2, WIDTH), "<f2").tobytes()
    assert members["vid_000000004.txt"] == b"archery"
    assert members["vid_000000004.json"] == (
        b'{"videoID": "a.b", "start_time": null, "end_time": null, "key": "vid_000000004", '
        b'"youtube_id": "a.b", "time_start": null, "time_end": null, "label_id": 9, '
        b'"n_frames": 2, "timestamps": null, "duration": null, "fps": null, "width": null, '
        b'"height": null, "extra": null}'
    )


def test_assembly_does_without_torch() -> None:
    """What assembles loads no torch, which takes as much memory as all of assembly."""
    program = (
        "import sys, clip_kinetics700_builder.assemble.assemble\n"
        "import clip_kinetics700_builder.cli.tables\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": SOURCE_PATHS}, check=True
    )
