"""This benchmark compares each stage of the work with what this machine could do at most.

Run as `python -m benchmarks.bench [--clips 24] [--turns 3] [--samples 40000] [--json FILE]`.
A turn measures decoding, encoding, whole builds and the plain script of `datasets` one after the
other, and its ceilings between them; then parts are assembled, and the tars read. A share is
computed from the ceiling of the same turn; the table shows medians over the turns.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

import clip_kinetics700
from benchmarks.assembly import measure_assembly
from benchmarks.build import Variant, list_variants, load_variants, measure_turn
from benchmarks.ceilings import measure_read
from benchmarks.generated_clips import make_inputs
from benchmarks.timing import write_json

Turns = Sequence[Mapping[str, float]]


class Figure(NamedTuple):
    """One line of the table."""

    name: str
    measured: str
    ceiling: str
    share: float | None
    """Share of the ceiling, or how many times as fast as the peer."""


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--samples", type=int, default=40_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    variants = list_variants()
    with tempfile.TemporaryDirectory() as name:
        inputs = make_inputs(Path(name), arguments.clips)
        encoders = load_variants(inputs, variants)
        building = [measure_turn(inputs, encoders) for _ in range(arguments.turns)]
    with tempfile.TemporaryDirectory() as name:
        assembly = measure_assembly(Path(name), arguments.samples, repeats=arguments.turns)
        tars = sorted((Path(name) / "assembled").glob("*.tar"))
        reading = [measure_reading(tars) for _ in range(arguments.turns + 1)][1:]
    figures = [*list_building(building, variants), *list_assembly(assembly), *list_reading(reading)]
    print_figures(figures, arguments)
    document: dict[str, Any] = {"clips": arguments.clips, "building": building}
    document |= {"assembly": assembly, "reading": reading}
    document["figures"] = [figure._asdict() for figure in figures]
    write_json(arguments.json, document)
    return 0


def measure_reading(tars: Sequence[Path]) -> dict[str, float]:
    """Return samples and bytes a second of reading all samples, and of reading the files."""
    read = measure_read(tars)
    begin = time.perf_counter()
    count = 0
    for sample in clip_kinetics700.open(tars[0].parent):
        sample.embeddings.copy()
        count += 1
    seconds = time.perf_counter() - begin
    n_bytes = sum(tar.stat().st_size for tar in tars)
    return {"samples": count / seconds, "bytes": n_bytes / seconds, "read": read}


def middle(turns: Turns, name: str) -> float:
    """Return the median of a figure."""
    return median(turn[name] for turn in turns)


def share(turns: Turns, name: str, ceiling: str, factor: str | None = None) -> float:
    """Return the median of a figure's share of its ceiling in the same turn."""
    shares = [turn[name] * (turn[factor] if factor else 1) / turn[ceiling] for turn in turns]
    return median(shares)


def list_building(turns: Turns, variants: Sequence[Variant]) -> Iterator[Figure]:
    """Yield the lines of decoding, encoding and building."""
    floor = f"{1000 * middle(turns, 'decode pass'):.0f} ms: FFmpeg decodes all, converts none"
    decode = f"{1000 * middle(turns, 'decode'):.0f} ms a clip"
    yield Figure("decode, crop: one core", decode, floor, share(turns, "decode pass", "decode"))
    for variant in variants:
        name, matrix = f"encode {variant.name}", f"matrix {variant.dtype}"
        measured = f"{middle(turns, name):.1f} frames/s"
        ceiling = f"{middle(turns, matrix):.0f} GFLOP/s of matrix products"
        yield Figure(name, measured, ceiling, share(turns, name, matrix, "GFLOP a frame"))
    for variant in variants:
        name, limit = f"build {variant.name}", f"limit {variant.name}"
        ceiling = f"{middle(turns, limit):.2f} clips/s: both limits together"
        measured = f"{middle(turns, name):.2f} clips/s"
        yield Figure(name, measured, ceiling, share(turns, name, limit))
        memory = f"{max(turn[f'MiB {variant.name}'] for turn in turns):,.0f} MiB at most"
        in_all = f"{middle(turns, f'seconds in all {variant.name}'):.0f} s with start-up"
        yield Figure("  all processes", f"{memory}, {in_all}", "", None)
    for variant in variants:
        peer = f"{middle(turns, 'peer'):.2f} clips/s: plain script of datasets, float32"
        name = f"build {variant.name}"
        yield Figure(f"{name} : peer", "", peer, share(turns, name, "peer"))


def list_assembly(document: Mapping[str, Any]) -> Iterator[Figure]:
    """Yield the lines of assembly."""

    def speed(name: str) -> str:
        return f"{document['bytes'] / document[name] / 1e6:,.0f} MB/s"

    ceiling = f"{speed('cp_sync_seconds')}: cp and sync"
    yield Figure("assembly", speed("seconds"), ceiling, document["share_of_cp_sync"])
    yield Figure("  its memory", f"{document['peak_mib']:,.0f} MiB at most", "", None)


def list_reading(turns: Turns) -> Iterator[Figure]:
    """Yield the line of reading."""
    measured = f"{middle(turns, 'samples'):,.0f} samples/s"
    ceiling = f"{middle(turns, 'read') / 1e6:,.0f} MB/s: read() of the tars"
    yield Figure("open(DIR), all samples copied", measured, ceiling, share(turns, "bytes", "read"))


def print_figures(figures: Sequence[Figure], arguments: argparse.Namespace) -> None:
    """Print the table."""
    table = Table("what", "measured", "ceiling")
    table.add_column("share", justify="right")
    for figure in figures:
        text = "" if figure.share is None else f"{figure.share:.2f}"
        table.add_row(figure.name, figure.measured, figure.ceiling, text)
    console = Console(soft_wrap=True)
    console.print(
        f"medians of {arguments.turns} turns, {arguments.clips} clips, {arguments.samples:,} "
        f"samples assembled and read, {os.cpu_count()} cores"
    )
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
