"""Plans the parts that try again what failed in finished ones.

Another try is a part of its own, so that earlier tries stay on record and nothing that went right
is done twice.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import count, takewhile
from pathlib import Path

from clip_kinetics700_builder.parts.part import name_try
from clip_kinetics700_builder.parts.part_reader import FinishedPart, read_part
from clip_kinetics700_builder.sources.ledger import check_reasons
from clip_kinetics700_builder.types import Part


def plan_retries(directory: Path, parts: Sequence[Part], reasons: Collection[str]) -> list[Part]:
    """Return the parts that try again what failed in finished ones, for these reasons or for any.

    For each part there is at most one, with the rows that no try has made a sample of.
    """
    check_reasons(reasons)
    # A rank has checked its own parts; of the others' only the counts matter here.
    names = [path.stem for path in directory.glob("*.json")]
    done = {name: read_part(directory, name, is_hashed=False) for name in names}
    got = {row for part in done.values() for row, reason in list_reasons(part) if not reason}
    retries = []
    for part in parts:
        of_part = map(partial(name_try, part.name), count())
        tries = [done[name] for name in takewhile(done.__contains__, of_part)]
        if not tries:
            continue
        name = name_try(part.name, len(tries))
        error = tries[-1].report.error
        if error is not None:
            retries += [replace(part, name=name)] if not reasons or error[0] in reasons else []
            continue
        last = dict(pair for attempt in tries for pair in list_reasons(attempt))
        rows = [row for row, reason in last.items() if not reasons or reason in reasons]
        if set(rows) - got:
            retries.append(replace(part, name=name, rows=sorted(set(rows) - got)))
    return retries


def list_reasons(part: FinishedPart) -> Iterator[tuple[int, str | None]]:
    """Yield each row of a part with why it failed, None where it did not."""
    return zip(part.report.rows, part.rows["reason"].to_pylist(), strict=True)
