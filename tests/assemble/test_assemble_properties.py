"""For any rows, the published layout loses nothing, and plain tools find its shards full."""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clip_kinetics700
from clip_kinetics700.schema import KEY_NAME, SPLITS, SPLITS_CSV_WORD, TAR_NAME
from clip_kinetics700_builder.assemble.assemble import assemble
from clip_kinetics700_builder.types import Clip, EncodedClip, Failure
from tests.support.damage.datasets import problems_of
from tests.support.datasets.builds import published_hashes
from tests.support.datasets.strategies import (
    DrawnRows,
    config_of,
    count_examples,
    drawn_rows,
    say_examples,
    temporary_path,
)

FORMATS = st.sampled_from([("parquet", "webdataset"), ("parquet",), ("webdataset",)])
SHARD_SIZES = st.integers(1, 6)


@pytest.fixture(scope="module", autouse=True)
def _say_examples() -> Iterator[None]:
    yield from say_examples("drawn datasets assembled")


def expected_meta(number: int, clip: Clip, encoded: EncodedClip, rows: DrawnRows) -> dict[str, Any]:
    """Return the meta that a clip must have, spelled out from the documented fields."""
    info, times = encoded.info, encoded.timestamps
    names = rows.class_names or []
    return {
        "key": f"vid_{number:09d}",
        "youtube_id": clip.video_id,
        "time_start": clip.time_start,
        "time_end": clip.time_end,
        "label_id": None if clip.label is None else names.index(clip.label),
        "n_frames": len(encoded.embeddings),
        "timestamps": None if times is None else times.tolist(),
        "duration": None if info is None else info.duration_seconds,
        "fps": None if info is None else info.frames_per_second,
        "width": None if info is None else info.width,
        "height": None if info is None else info.height,
        "extra": clip.extra,
    }


def list_samples(rows: DrawnRows) -> list[tuple[Clip, EncodedClip]]:
    """Return the clips that gave a sample, in order."""
    pairs = zip(rows.clips, rows.outcomes, strict=True)
    return [(clip, encoded) for clip, encoded in pairs if isinstance(encoded, EncodedClip)]


def list_shard_sizes(rows: DrawnRows, n_per_shard: int) -> dict[str, list[int]]:
    """Return how many samples each shard of a split must hold: all but its last are full."""
    sizes = {}
    for split in SPLITS:
        n_samples = sum(clip.split == split for clip, _ in list_samples(rows))
        full, rest = divmod(n_samples, n_per_shard)
        sizes[split] = [n_per_shard] * full + [rest] * (rest > 0)
    return sizes


@pytest.mark.torture
@settings(max_examples=count_examples(30))
@given(drawn_rows(), SHARD_SIZES, FORMATS)
def test_whatever_is_assembled_verifies_and_comes_back(
    rows: DrawnRows, n_per_shard: int, formats: tuple[str, ...]
) -> None:
    """No problem is found, and reading gives every bit of every sample under consecutive keys."""
    with temporary_path() as output:
        manifest = assemble(rows, config_of(output, n_per_shard, formats))
        assert problems_of(output) == {}
        for split, totals in manifest.document["totals"]["splits"].items():
            assert totals["rows"] == totals["samples"] + totals["failures"]
            assert totals["rows"] == sum(clip.split == split for clip in rows.clips)
        failed = pq.read_table(output / "failures.parquet").to_pylist()
        assert [tuple(row.values()) for row in failed] == [
            (c.split, c.video_id, c.time_start, c.time_end, c.label, f.stage, f.reason, f.message)
            for c, f in zip(rows.clips, rows.outcomes, strict=True)
            if isinstance(f, Failure)
        ]
        expected = list_samples(rows)
        found = list(clip_kinetics700.open(output)) if expected else []
        assert len(found) == len(expected)
        for number, (sample, (clip, encoded)) in enumerate(zip(found, expected, strict=True)):
            assert sample.embeddings.tobytes() == encoded.embeddings.tobytes()
            assert sample.embeddings.shape == encoded.embeddings.shape
            assert sample.caption == clip.caption
            assert sample.meta == expected_meta(number, clip, encoded, rows)


@pytest.mark.torture
@settings(max_examples=count_examples(20))
@given(drawn_rows(), SHARD_SIZES)
def test_shards_are_full_but_for_the_last_of_a_split(rows: DrawnRows, n_per_shard: int) -> None:
    """Tars and Parquet files hold the same keys, so many each, as plain tools count them."""
    with temporary_path() as output:
        assemble(rows, config_of(output, n_per_shard))
        lines = ["tar_file,split"]
        n_samples = n_tars = 0
        for split, sizes in list_shard_sizes(rows, n_per_shard).items():
            for number, size in enumerate(sizes):
                keys = [KEY_NAME.format(n_samples + place) for place in range(size)]
                tar_name = TAR_NAME.format(n_tars)
                parquet = f"data/{split}-{number:05d}-of-{len(sizes):05d}.parquet"
                with tarfile.open(output / tar_name) as tar:
                    names = tar.getnames()
                assert names == [f"{key}.{kind}" for key in keys for kind in ("json", "npy", "txt")]
                metas = pq.read_table(output / parquet).column("meta").to_pylist()
                assert [meta["key"] for meta in metas] == keys
                lines.append(f"{tar_name[:-4]},{SPLITS_CSV_WORD[split]}")
                n_samples, n_tars = n_samples + size, n_tars + 1
        assert (output / "splits.csv").read_text() == "\n".join(lines) + "\n"
        assert len(list(output.glob("*.tar"))) == n_tars
        assert len(list(output.glob("data/*"))) == n_tars


@pytest.mark.torture
@settings(max_examples=count_examples(15))
@given(drawn_rows(), SHARD_SIZES)
def test_the_index_finds_every_array(rows: DrawnRows, n_per_shard: int) -> None:
    """File, offset and size of a row of the index are an npy that `np.load` reads as it was."""
    with temporary_path() as output:
        assemble(rows, config_of(output, n_per_shard))
        index = pq.read_table(output / "index.parquet").to_pylist()
        for row, (clip, encoded) in zip(index, list_samples(rows), strict=True):
            data = (output / row["tar_file"]).read_bytes()
            begin = row["npy_offset"]
            stream = io.BytesIO(data[begin : begin + row["npy_nbytes"]])
            assert np.load(stream).tobytes() == encoded.embeddings.tobytes()
            assert row["split"] == clip.split


@pytest.mark.torture
@settings(max_examples=count_examples(10))
@given(drawn_rows(), SHARD_SIZES, st.data())
def test_one_other_bit_is_another_file(
    rows: DrawnRows, n_per_shard: int, data: st.DataObject
) -> None:
    """A bit of one embedding changes its shards, manifest and card, which hold their hashes."""
    places = [row for row, outcome in enumerate(rows.outcomes) if isinstance(outcome, EncodedClip)]
    if not places:
        return
    row = data.draw(st.sampled_from(places))
    before = rows.outcomes[row]
    assert isinstance(before, EncodedClip)
    embeddings = before.embeddings.copy()
    embeddings.view(np.uint16)[-1, -1] ^= 1
    outcomes = [*rows.outcomes]
    outcomes[row] = replace(before, embeddings=embeddings)
    with temporary_path() as output:
        assemble(rows, config_of(output / "a", n_per_shard))
        assemble(replace(rows, outcomes=outcomes), config_of(output / "b", n_per_shard))
        one, other = published_hashes(output / "a"), published_hashes(output / "b")
    assert one.keys() == other.keys()
    changed = {name.partition("-")[0][:4] for name in one if one[name] != other[name]}
    assert changed == {"data", "ds_0", "mani", "READ"}
    assert sum(one[name] != other[name] for name in one) == 4
