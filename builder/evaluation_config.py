"""Every option of an evaluation and its only default; what is evaluated is a `SourceConfig`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from builder.config import SourceConfig
from clip_kinetics700.texts import Protocol

ProbeProtocol = Literal["card", "mean-pooled"]
PROBE_PROTOCOLS: tuple[str, ...] = get_args(ProbeProtocol)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """Which text model, and whether it must belong to the embeddings."""

    model: str | None = None
    """Hub id or directory of a whole CLIP; None is that of the published class texts, if there
    are any, else the one that the manifest records, else the builds' default."""
    model_revision: str | None = None
    prompts: Path | None = None
    """Text file with a prompt a line; None is OpenAI's list for Kinetics-700."""
    force: bool = False
    """Use a text model of another family than the embeddings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """What is common to every evaluation."""

    source: SourceConfig
    split: str = "validation"
    classes: str | None = None
    """`400`, `600`, `700` or a text file; None is the manifest's list, or else that of 700."""
    seed: int = 0
    quiet: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroShotConfig:
    """Frames and texts in, how often the nearest text is the class out."""

    evaluation: EvaluationConfig
    text: TextConfig = TextConfig()
    protocol: Protocol = "card"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeConfig:
    """Frames of train and of another split in, how well a linear classifier tells classes out."""

    evaluation: EvaluationConfig
    protocol: ProbeProtocol = "card"
    train_fraction: float = 1.0
    """Share of the labelled clips of train that is taken, at random."""
    held_out: float = 0.1
    """Share of those that chooses C, in the protocol `mean-pooled`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """Texts in, the clips of which a frame is nearest out."""

    source: SourceConfig
    text: TextConfig = TextConfig()
    split: str | None = None
    """None is all."""
    top: int = 20
    quiet: bool = False
