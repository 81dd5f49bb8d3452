"""Tells by the package's test video whether all parts of a build were made by one encoder.

The embedding of that video, the canary, is kept with each part. A part of another encoder must not
be mixed in.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from clip_kinetics700_builder.parts.part import PartReport
from clip_kinetics700_builder.types import BuildError

# Another processor, thread count or library leaves a cosine far above this; another model, channel
# order or resize one far below.
SAME_ENCODER_COSINE = 0.9999


@dataclass(frozen=True, slots=True)
class Variant:
    """An encoder that is not bit for bit the first part's, but close enough to stand beside it."""

    cosine: float
    """The cosine of its vector and the first part's."""
    n_rows: int
    """Rows that it encoded."""
    vector: list[float]
    """(width,) float32."""


@dataclass(frozen=True, slots=True)
class Canary:
    """The embeddings of the test video by the encoders of a dataset."""

    vector: list[float]
    """(width,) float32, the first part's."""
    variants: tuple[Variant, ...] = ()
    """Other encoders, the nearest first; none where all parts have equal bits."""


def describe_canary(canary: Canary | None) -> dict[str, Any]:
    """Return the fields of the manifest; a dataset that we did not encode has no canary."""
    if canary is None:
        return {"canary": None, "canary_variants": []}
    variants = [asdict(variant) for variant in canary.variants]
    return {"canary": canary.vector, "canary_variants": variants}


def compare_canaries(reports: Sequence[PartReport]) -> Canary:
    """Return the canary of a dataset that is made of these parts.

    Raises:
        BuildError: another encoder made a part; it names the first one.
    """
    first = reports[0]
    n_rows: Counter[tuple[float, ...]] = Counter()
    for report in reports:
        if report.canary == first.canary:
            continue
        if not is_same_encoder(report.canary, first.canary):
            raise BuildError(
                f"part {report.name}: its encoder gives another embedding than that of "
                f"{first.name} (another driver, model file or library?); "
                f"delete {report.name}.json and encode again"
            )
        n_rows[tuple(report.canary)] += len(report.rows)
    variants = [
        Variant(cosine(vector, first.canary), count, list(vector))
        for vector, count in n_rows.items()
    ]
    variants.sort(key=lambda variant: (-variant.cosine, variant.vector))
    return Canary(first.canary, tuple(variants))


def is_same_encoder(a: Sequence[float], b: Sequence[float]) -> bool:
    """Tell whether two (width,) canaries differ by no more than another machine's arithmetic."""
    return len(a) == len(b) and cosine(a, b) >= SAME_ENCODER_COSINE


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the cosine of two vectors; 0 where one of them has no direction."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    norms = float(np.linalg.norm(x) * np.linalg.norm(y))
    # A vector of NaNs is no neighbour of anything.
    return float(x @ y) / norms if norms > 0 else 0.0
