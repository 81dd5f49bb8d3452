"""Checks how a dataset becomes batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from clip_kinetics700.training.collate import Batch, Dtype, FramePolicy
from clip_kinetics700.training.ordering import Ordering
from clip_kinetics700.training.world import World

COLUMNS = tuple(Batch.__annotations__)
TENSORS = ("embeddings", "mask", "label_ids")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions(Ordering):
    """How a dataset becomes batches; `batches` says what each option means."""

    dtype: Dtype
    max_frames: int | None
    frame_policy: FramePolicy
    columns: Sequence[str] | None
    rank: int | None
    world_size: int | None

    def __post_init__(self) -> None:
        for name, allowed in (
            ("dtype", get_args(Dtype)),
            ("frame_policy", get_args(FramePolicy)),
            ("even", ("pad", "drop", None)),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; allowed are {', '.join(map(str, allowed))}")
        for name in ("batch_size", "buffer_size", "max_frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        unknown = set(self.columns or ()) - set(COLUMNS)
        if isinstance(self.columns, str) or unknown:
            raise ValueError(f"columns are {self.columns!r}; allowed are {', '.join(COLUMNS)}")
        # Whichever of the two is given must be possible, whatever the other will be.
        World(self.rank or 0, self.world_size or (self.rank or 0) + 1)
