"""What the package's test video became in the encoder of each part: is it one encoder?

In: the reports of parts. Out: what the manifest says of it, or the part that must not be mixed in.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from clip_kinetics700_builder.parts.part import PartReport
from clip_kinetics700_builder.types import BuildError

# What another processor, thread count or library leaves is far above it; another model, channel
# order or resize is far below.
SAME_ENCODER_COSINE = 0.9999


@dataclass(frozen=True, slots=True)
class Variant:
    """An encoder that is not bit for bit the first part's, but close enough to stand beside it."""

    cosine: float
    """Of its vector and the first part's."""
    n_rows: int
    """That it encoded."""
    vector: list[float]


@dataclass(frozen=True, slots=True)
class Canary:
    """What the test video became in the encoders of a dataset."""

    vector: list[float]
    """(width,) float32 of the first part."""
    variants: tuple[Variant, ...] = ()
    """Others, the nearest first; none where all parts have equal bits."""


def describe_canary(canary: Canary | None) -> dict[str, Any]:
    """Return the fields of the manifest; a dataset that we did not encode has none of it."""
    if canary is None:
        return {"canary": None, "canary_variants": []}
    variants = [asdict(variant) for variant in canary.variants]
    return {"canary": canary.vector, "canary_variants": variants}


def compare_canaries(reports: Sequence[PartReport]) -> Canary:
    """Return what the parts' canaries say of their encoders.

    Raises:
        BuildError: names the first part that another encoder made.
    """
    first = reports[0]
    n_rows: dict[tuple[float, ...], int] = {}
    for report in reports:
        if report.canary != first.canary:
            refuse_other_encoder(report, first)
            vector = tuple(report.canary)
            n_rows[vector] = n_rows.get(vector, 0) + len(report.rows)
    variants = [
        Variant(cosine(vector, first.canary), count, list(vector))
        for vector, count in n_rows.items()
    ]
    variants.sort(key=lambda variant: (-variant.cosine, variant.vector))
    return Canary(first.canary, tuple(variants))


def refuse_other_encoder(report: PartReport, first: PartReport) -> None:
    """Refuse a part whose canary is not that of another part's encoder."""
    if is_same_encoder(report.canary, first.canary):
        return
    raise BuildError(
        f"part {report.name}: its encoder gives another embedding than that of {first.name} "
        "(another driver, model file or library?); "
        f"delete {report.name}.json and encode again"
    )


def is_same_encoder(a: Sequence[float], b: Sequence[float]) -> bool:
    """Say whether two canaries are equal but for what another machine's arithmetic leaves."""
    return len(a) == len(b) and cosine(a, b) >= SAME_ENCODER_COSINE


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the cosine of two vectors; 0 where one of them has no direction."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    norms = float(np.linalg.norm(x) * np.linalg.norm(y))
    # A vector of NaNs is no neighbour of anything.
    return float(x @ y) / norms if norms > 0 else 0.0
