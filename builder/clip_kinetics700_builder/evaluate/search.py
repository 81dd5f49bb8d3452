"""Search finds the clips whose frames are nearest to a text, exactly, over every frame there is.

`load_frames` reads a dataset once into memory, as float16; `search_frames` goes over all of it
and computes in float32, a piece at a time that stays in the processor's cache.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from clip_kinetics700.damage import DamageError, OnError, report_damage
from clip_kinetics700.dataset import EmbeddingDataset
from clip_kinetics700.index import Index
from clip_kinetics700.texts import normalize_rows
from clip_kinetics700_builder.config import SearchConfig
from clip_kinetics700_builder.evaluate.class_texts import TextTarget, open_text_model
from clip_kinetics700_builder.evaluate.clips import find_width, name_source
from clip_kinetics700_builder.read.rows import open_source, prepare_rows, read_own_manifest
from clip_kinetics700_builder.system.progress import Advance, Progress, no_progress
from clip_kinetics700_builder.system.threads import share_rows
from clip_kinetics700_builder.types import Float32Array, InputError

# With 512 columns a piece is 2 MB of float32, which stays in a core's cache until it is multiplied.
FRAMES_PER_PIECE = 1024
YOUTUBE = "https://www.youtube.com/watch?v={}&t={}s"


@dataclass(frozen=True, slots=True, eq=False)
class FrameStore:
    """Every frame of a dataset, or of a split of it, in memory."""

    frames: npt.NDArray[Any]
    """(n_frames, width) float16, or float32 where more is stored; zeros where not finite."""
    norms: Float32Array
    """(n_frames,) float32, their lengths; infinite where a frame is zeros."""
    begins: npt.NDArray[np.int64]
    """(n_clips,) the first frame of each clip that has any."""
    rows: npt.NDArray[np.int64]
    """(n_clips,) their rows in the index."""
    index: Index


@dataclass(frozen=True, slots=True)
class Hit:
    """A clip, and its frame that is nearest to a text."""

    similarity: float
    """Cosine of frame and text."""
    key: str
    caption: str
    split: str
    seconds: float
    """Time of the frame since the start of the clip."""
    link: str | None
    """The video on YouTube at that second; None for one's own videos."""


def search(
    config: SearchConfig, texts: Sequence[str], *, progress: Progress = no_progress
) -> list[list[Hit]]:
    """Return the best clips for each text.

    Raises:
        InputError: dataset or model cannot be used, or do not belong together.
        DamageError: a clip is damaged, and damage is not to be skipped.
    """
    dataset = open_source(config.source)
    layout = dataset.layout
    if config.split is not None and config.split not in layout.files:
        raise InputError(f"--split {config.split}: there are only {', '.join(layout.files)}")
    source = prepare_rows(dataset, config.source.on_error)
    rows = source.dataset
    target = TextTarget(
        name_source(layout, config.source.source)[0],
        layout.root,
        read_own_manifest(layout),
        find_width(source, config.source.on_error),
    )
    encoder, _, _ = open_text_model(target, config.text)
    vectors = encoder.encode(texts)
    selected = rows if config.split is None else rows.select(config.split)
    with progress("load", len(selected), "clips") as advance:
        store = load_frames(selected, advance=advance, on_error=config.source.on_error)
    return search_frames(store, vectors, top=config.top)


def load_frames(
    dataset: EmbeddingDataset,
    *,
    on_error: OnError = "raise",
    advance: Advance = lambda _: None,
) -> FrameStore:
    """Read all frames of a dataset, or of a selection of it, into memory.

    Raises:
        DamageError: a clip is damaged or of another width, and `on_error` is `raise`.
        InputError: there are no frames.
    """
    index, rows = dataset.index, pa.array(dataset.rows)
    n_expected = pc.sum(index.samples.column("n_frames").take(rows)).as_py() or 0
    frames = np.empty((0, dataset.width), np.float16)
    found, sizes, n_frames = [], [], 0
    for row, array in read_arrays(dataset, on_error, advance):
        if n_frames == 0:
            # The first clip tells the type of all; what is wider than float32 becomes that.
            dtype = np.float16 if array.dtype == np.float16 else np.float32
            frames = np.empty((n_expected, dataset.width), dtype)
        frames[n_frames : n_frames + len(array)] = array
        n_frames += len(array)
        found.append(row)
        sizes.append(len(array))
    if not n_frames:
        raise InputError("there are no frames to search")
    frames = frames[:n_frames]
    return FrameStore(
        frames=frames,
        norms=measure_norms(frames),
        begins=np.cumsum(sizes) - np.array(sizes),
        rows=np.array(found),
        index=index,
    )


def read_arrays(
    dataset: EmbeddingDataset, on_error: OnError, advance: Callable[[int], None]
) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield the index row and the (n_frames, width) embeddings of each clip that has frames."""
    index, width = dataset.index, dataset.width
    for block, results in dataset.read_blocks(dataset.rows):
        for row, array in zip(block.rows.tolist(), results, strict=True):
            if isinstance(array, DamageError):
                report_damage(array, on_error)
            elif len(array) and array.shape[1] != width:
                reason = f"{array.shape[1]} columns, the others have {width}"
                path, key = index.files[index.file_numbers[row]], read_meta(index, row)["key"]
                report_damage(DamageError(path, key, None, reason), on_error)
            elif len(array):
                yield row, array
        advance(len(results))


def measure_norms(frames: npt.NDArray[Any]) -> Float32Array:
    """Return the (n,) float32 lengths of (n, width) frames; those without any are zeroed first."""
    norms = np.empty(len(frames), np.float32)

    def measure(begin: int, end: int) -> None:
        for first in range(begin, end, FRAMES_PER_PIECE):
            piece = slice(first, min(first + FRAMES_PER_PIECE, end))
            floats = torch.from_numpy(frames[piece]).float()
            torch.linalg.vector_norm(floats, dim=1, out=torch.from_numpy(norms[piece]))

    share_rows(measure, len(frames))
    is_odd = ~np.isfinite(norms) | (norms == 0)
    frames[is_odd] = 0
    norms[is_odd] = np.inf
    return norms


def search_frames(store: FrameStore, vectors: npt.NDArray[Any], *, top: int) -> list[list[Hit]]:
    """Return the best clips for each of (n_texts, width) vectors, the best first.

    A clip counts by its best frame; of equal clips, and of equal frames, the earlier one is first.
    """
    similarities = compare_frames(store, normalize_rows(vectors))
    found = []
    for column in similarities:
        best = np.maximum.reduceat(column, store.begins)
        order = np.argsort(-best, kind="stable")[:top]
        found.append([describe_hit(store, int(clip), column) for clip in order])
    return found


def compare_frames(store: FrameStore, units: Float32Array) -> Float32Array:
    """Return the (n_texts, n_frames) float32 cosines of all frames and some texts."""
    n_frames = len(store.frames)
    similarities = np.empty((len(units), n_frames), np.float32)

    def compare(begin: int, end: int) -> None:
        buffer = torch.empty(FRAMES_PER_PIECE, store.frames.shape[1])
        for first in range(begin, end, FRAMES_PER_PIECE):
            last = min(first + FRAMES_PER_PIECE, end)
            floats = buffer[: last - first].copy_(torch.from_numpy(store.frames[first:last]))
            # One by one: a product with a few columns takes several times as long.
            for unit, row in zip(units, similarities, strict=True):
                torch.mv(floats, torch.from_numpy(unit), out=torch.from_numpy(row[first:last]))

    share_rows(compare, n_frames)
    similarities /= store.norms
    return similarities


def describe_hit(store: FrameStore, clip: int, column: Float32Array) -> Hit:
    """Return a clip with the best of its frames."""
    begin = store.begins[clip]
    end = store.begins[clip + 1] if clip + 1 < len(store.begins) else len(column)
    frame = int(column[begin:end].argmax())
    row = int(store.rows[clip])
    meta = read_meta(store.index, row)
    timestamps, start = meta["timestamps"], meta["time_start"]
    # Where no times are recorded, as upstream's are not, there is a frame a second.
    seconds = float(frame if timestamps is None else timestamps[frame])
    is_on_youtube = start is not None and meta["youtube_id"] is not None
    return Hit(
        similarity=float(column[begin + frame]),
        key=meta["key"],
        caption=meta["caption"] or "",
        split=store.index.splits[store.index.split_numbers[row]],
        seconds=seconds,
        link=YOUTUBE.format(quote(meta["youtube_id"], safe=""), int(start + seconds))
        if is_on_youtube
        else None,
    )


def read_meta(index: Index, row: int) -> dict[str, Any]:
    """Return caption and meta of one row of an index."""
    return dict(index.samples.slice(row, 1).to_pylist()[0])
