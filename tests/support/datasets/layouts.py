"""These functions make small dataset directories in our layout and in upstream's dialects.

They are written from the format alone (tarfile, pyarrow), and so check the builder's writers too.
"""

import io
import json
import random
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clip_kinetics700.features import data_schema
from clip_kinetics700.index import scan_pieces
from clip_kinetics700.layout import read_layout
from clip_kinetics700.schema import (
    INDEX_NAME,
    KEY_NAME,
    SPLITS_CSV_WORD,
    TAR_NAME,
    Sample,
    encode_sample,
)

CLASS_NAMES = ("massaging person's head", "tying knot (not on a tie)", "yoga")
SAMPLES = {"train": 12, "validation": 4, "test": 3}

CARD = """---
license: cc-by-4.0
configs:
- config_name: default
  data_files:
{files}
dataset_info:
  config_name: default
  features:
{features}
  splits:
{splits}
---
# A small dataset
"""


def make_sample(number: int, *, width: int = 8, n_frames: int | None = None) -> Sample:
    """Return a sample with a content of its own; every third has no label, as in K700 test."""
    rng = np.random.default_rng(number)
    n_frames = 1 + number % 4 if n_frames is None else n_frames
    label_id = None if number % 3 == 2 else number % 3
    return Sample(
        key=KEY_NAME.format(number),
        embeddings=rng.standard_normal((n_frames, width)).astype(np.float16),
        caption="" if label_id is None else CLASS_NAMES[label_id],
        youtube_id=f"-a_{number:08d}",
        time_start=number,
        time_end=number + 10,
        label_id=label_id,
        timestamps=np.arange(n_frames, dtype=np.float32),
        duration=n_frames - 0.25,
        fps=29.97,
        width=340,
        height=256,
        extra=None,
    )


def make_samples(counts: Mapping[str, int], *, width: int = 8) -> dict[str, list[Sample]]:
    """Return these numbers of samples by split; their own numbers go on over the splits."""
    samples = {}
    number = 0
    for split, count in counts.items():
        samples[split] = [make_sample(number + row, width=width) for row in range(count)]
        number += count
    return samples


def make_classes(count: int, names: Sequence[str]) -> list[Sample]:
    """Return samples of (10, 512) float16, with all these classes in random order."""
    labels = [number % len(names) for number in range(count)]
    random.Random(0).shuffle(labels)
    return [
        replace(make_sample(number, width=512, n_frames=10), caption=names[label], label_id=label)
        for number, label in enumerate(labels)
    ]


def write_dataset(
    directory: Path,
    samples: Mapping[str, Sequence[Sample]],
    *,
    samples_per_shard: int = 5,
    class_names: Sequence[str] | None = CLASS_NAMES,
    parquet: bool = True,
) -> Path:
    """Write samples in the layout we publish and return its directory."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = ["tar_file,split"]
    for split, group in samples.items():
        for begin in range(0, len(group), samples_per_shard):
            name = TAR_NAME.format(len(rows) - 1)
            write_tar(directory / name, group[begin : begin + samples_per_shard])
            rows.append(f"{name.removesuffix('.tar')},{SPLITS_CSV_WORD[split]}")
    (directory / "splits.csv").write_text("\n".join(rows) + "\n")
    width = next(iter(samples.values()))[0].embeddings.shape[1]
    manifest = {
        "class_names": None if class_names is None else list(class_names),
        "configuration": {"embedding_width": width},
    }
    (directory / "manifest.json").write_text(json.dumps(manifest))
    if parquet:
        write_parquet(directory, samples, class_names)
        counts = {split: len(group) for split, group in samples.items()}
        write_card(directory, counts, width, class_names)
    return directory


def write_tar(path: Path, samples: Iterable[Sample]) -> None:
    """Write samples as a USTAR with members json, npy, txt."""
    members = [
        (f"{sample.key}.{extension}", data)
        for sample in samples
        for extension, data in encode_sample(sample)
    ]
    write_members(path, members)


def write_members(
    path: Path, members: Iterable[tuple[str, bytes]], tar_format: int = tarfile.USTAR_FORMAT
) -> None:
    """Write a tar with these members, gzipped where its name says so."""
    mode = "w:gz" if path.name.endswith("gz") else "w"
    with tarfile.open(path, mode, format=tar_format) as tar:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def npy_bytes(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bytes:
    """Return an array of any type and shape as the bytes of a `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def write_parquet(
    directory: Path, samples: Mapping[str, Sequence[Sample]], class_names: Sequence[str] | None
) -> None:
    """Write data/SPLIT-00000-of-00001.parquet for each split, 1000 rows a group."""
    (directory / "data").mkdir(exist_ok=True)
    for split, group in samples.items():
        schema = data_schema(group[0].embeddings.shape[1], class_names)
        columns = {
            "embeddings": [list(sample.embeddings) for sample in group],
            "caption": [sample.caption for sample in group],
            "meta": [sample.meta for sample in group],
        }
        path = directory / "data" / f"{split}-00000-of-00001.parquet"
        pq.write_table(pa.table(columns, schema=schema), path, row_group_size=1000)


def write_card(
    directory: Path, counts: Mapping[str, int], width: int, class_names: Sequence[str] | None
) -> None:
    """Write a README.md whose YAML names the one configuration, `default`."""
    files = [f"  - split: {split}\n    path: data/{split}-*.parquet" for split in counts]
    splits = [
        f"  - name: {split}\n    num_bytes: 0\n    num_examples: {count}"
        for split, count in counts.items()
    ]
    text = CARD.format(
        files="\n".join(files),
        features=render_features(width, class_names),
        splits="\n".join(splits),
    )
    (directory / "README.md").write_text(text)


def render_features(width: int, class_names: Sequence[str] | None) -> str:
    """Return the features in the one YAML spelling that datasets 2.21 to 5.2 all read."""
    label = ["dtype: int64"]
    if class_names is not None:
        names = [f"      '{number}': {json.dumps(name)}" for number, name in enumerate(class_names)]
        label = ["dtype:", "  class_label:", "    names:", *names]
    lines = [
        "- name: embeddings",
        "  sequence:",
        "    sequence: float16",
        f"    length: {width}",
        "- name: caption",
        "  dtype: string",
        "- name: meta",
        "  struct:",
    ]
    return "\n".join("  " + line for line in lines + _render_meta(label))


def _render_meta(label: list[str]) -> list[str]:
    """Return the lines of the fields of `meta`."""
    kinds = {
        "key": ["dtype: string"],
        "youtube_id": ["dtype: string"],
        "time_start": ["dtype: int64"],
        "time_end": ["dtype: int64"],
        "label_id": label,
        "n_frames": ["dtype: int64"],
        "timestamps": ["sequence: float32"],
        "duration": ["dtype: float64"],
        "fps": ["dtype: float64"],
        "width": ["dtype: int64"],
        "height": ["dtype: int64"],
        "extra": ["dtype: string"],
    }
    lines = []
    for name, kind in kinds.items():
        lines += [f"  - name: {name}", *(f"    {line}" for line in kind)]
    return lines


def write_index(directory: Path) -> Path:
    """Add an index.parquet to a dataset directory and return the directory."""
    pieces = scan_pieces(read_layout(directory), on_error="raise")
    pq.write_table(pa.concat_tables(pieces), directory / INDEX_NAME)
    return directory
