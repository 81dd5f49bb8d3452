"""A manifest in, whose videos a dataset is of out: which words and terms its card must have."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clip_kinetics700.classes import VERSIONS, class_names


@dataclass(frozen=True, slots=True)
class Subject:
    """What the card is about."""

    is_kinetics: bool
    """Whether the clips are those of Kinetics, whichever release."""
    release: str | None
    """`400`, `600` or `700`, by its classes; None where these are others."""
    title: str
    tags: tuple[str, ...]


def find_subject(manifest: Mapping[str, Any]) -> Subject:
    """Return what a manifest tells of the videos."""
    formats = manifest["configuration"]["formats"]
    common = ("clip", "video", "embeddings", *(["webdataset"] * ("webdataset" in formats)))
    if manifest["configuration"].get("clips") != "kinetics":
        return Subject(
            is_kinetics=False, release=None, title="CLIP embeddings of videos", tags=common
        )
    names = manifest["class_names"] or []
    release = next((version for version in VERSIONS if names == list(class_names(version))), None)
    return Subject(
        is_kinetics=True,
        release=release,
        title=f"CLIP-Kinetics{release or ''}",
        tags=(
            *common,
            "action-recognition",
            "kinetics",
            *([f"kinetics-{release}"] * bool(release)),
        ),
    )
