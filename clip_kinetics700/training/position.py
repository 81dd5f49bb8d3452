"""Says how far an epoch was read: what a state holds, and where reading goes on from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clip_kinetics700.training.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where an epoch begins or goes on: behind what the ranks of a state had taken."""

    epoch: int
    taken: tuple[int, ...] = ()
    """How many batches each rank had taken since their number changed last."""
    earlier: tuple[tuple[int, ...], ...] = ()
    """The same of ranks of another number, who had begun this epoch; the first ones first."""
    first: int | None = None
    """The batch at which workers began to take turns, where a worker gave the state."""

    def resume(self, world: World) -> "Reading":
        """Return what a rank reads from here on."""
        if len(self.taken) in {0, world.size}:
            next_batch = self.taken[world.rank] if self.taken else 0
            first = next_batch if self.first is None else self.first
            return Reading(self.epoch, world, self.earlier, first, next_batch)
        if self.first is not None:
            raise RuntimeError(
                f"the state is of a worker of one of {len(self.taken)} ranks, and there are "
                f"{world.size} now: only a state of the batches themselves, "
                "`state_dict(n_batches=...)`, goes on with another number of ranks"
            )
        return Reading(self.epoch, world, (*self.earlier, self.taken), 0, 0)


@dataclass(slots=True)
class Reading:
    """An epoch that this process reads, and how far it is."""

    epoch: int
    world: World
    earlier: tuple[tuple[int, ...], ...]
    first: int
    """The batch at which workers begin to take turns."""
    next_batch: int
    n_batches: int | None = None
    """How many batches this rank reads of it, once that is known."""

    is_dispatched: bool = False
    """Whether another library shares the batches among ranks."""

    @property
    def is_over(self) -> bool:
        """Whether its last batch was handed over."""
        return self.next_batch == self.n_batches


def join_states(states: Sequence[Mapping[str, Any]]) -> Position:
    """Return where an epoch goes on that the ranks of these states have begun.

    Raises:
        ValueError: they are states neither of one rank nor of all ranks at one time.
    """
    one = states[0]
    size = int(one["world_size"])
    taken = dict.fromkeys(range(size), int(one["next_batch"]))
    if len(states) > 1:
        taken = {int(state["rank"]): int(state["next_batch"]) for state in states}
        names = ("epoch", "world_size", "earlier")
        if len(states) != size or sorted(taken) != list(range(size)):
            ranks = ", ".join(str(state["rank"]) for state in states)
            raise ValueError(f"states of ranks {ranks} of a world of {size}: give one of each rank")
        if any(state[name] != one[name] for state in states for name in names):
            raise ValueError("the states of the ranks are not of one epoch of one run")
    return Position(
        epoch=int(one["epoch"]),
        taken=tuple(taken[rank] for rank in range(size)),
        earlier=tuple(map(tuple, one["earlier"])),
        first=one["first"],
    )
