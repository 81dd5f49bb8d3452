"""`index` writes the index.parquet that a source lacks; it reads every sample once and holds none.

With it a reader finds each sample of upstream's tars, gzipped or not, and of a processed
dataset; it may lie beside a source that cannot be written to.
"""

from collections import Counter
from itertools import chain
from pathlib import Path

from clip_kinetics700.features import INDEX_SCHEMA
from clip_kinetics700.index import scan_pieces
from clip_kinetics700.layout import Layout
from clip_kinetics700.remote import is_remote
from clip_kinetics700.schema import INDEX_NAME, SPLITS
from clip_kinetics700_builder.assemble.tables import open_table_file
from clip_kinetics700_builder.config import SourceConfig
from clip_kinetics700_builder.read.rows import open_source, read_own_manifest
from clip_kinetics700_builder.system.files import check_directory
from clip_kinetics700_builder.system.progress import Progress, no_progress
from clip_kinetics700_builder.types import InputError


def index_source(
    config: SourceConfig, output: Path | None, *, progress: Progress = no_progress
) -> tuple[Path, dict[str, int]]:
    """Write the index of a source; return its file, and how many samples of each split it has.

    Without an `output` it is index.parquet in a local source.

    Raises:
        InputError: the source has an index of its own, or there is no place for one.
        DamageError: a sample or a tar is damaged, and `config.on_error` is `raise`.
    """
    layout = open_source(config).layout
    refuse_indexed(layout, config.source)
    path = choose_file(layout, config.source, output)
    counts: Counter[str] = Counter()
    paths = chain.from_iterable(layout.files.values())
    places = {layout.relative(path): number for number, path in enumerate(paths)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        progress("index", len(places), "files") as advance,
        open_table_file(path, INDEX_SCHEMA) as index,
    ):
        n_done = 0
        for piece in scan_pieces(layout, on_error=config.on_error):
            if piece.num_rows == 0:
                continue
            index.write(piece)
            counts.update(piece.column("split").to_pylist())
            place = places[piece.column("tar_file")[-1].as_py()]
            advance(place - n_done)
            n_done = place
        advance(len(places) - n_done)
        if not counts:
            raise InputError(f"{config.source}: holds no samples")
    return path, {split: counts[split] for split in SPLITS if split in counts}


def refuse_indexed(layout: Layout, source: str) -> None:
    """Refuse a source that needs no index, or whose index is one of its published files."""
    if layout.kind == "parquet":
        raise InputError(f"{source}: holds Parquet files, which are read without an index")
    if layout.index is not None and read_own_manifest(layout) is not None:
        raise InputError(
            f"{source}: its index.parquet belongs to its manifest.json, which has its hash; "
            "`clip-kinetics700 verify` checks it"
        )


def choose_file(layout: Layout, source: str, output: Path | None) -> Path:
    """Return where the index is written."""
    if output is None and (not layout.root or is_remote(layout.root)):
        raise InputError(f"{source}: is no local directory; --output FILE says where to write")
    path = Path(layout.root) / INDEX_NAME if output is None else output
    if path.is_dir():
        raise InputError(f"--output {path}: is a directory; a file is needed")
    check_directory("--output", path.parent)
    return path
