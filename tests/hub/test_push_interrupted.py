"""A push that is interrupted any number of times ends in one commit and sends no more bytes.

Kills and faults come at random requests; the server counts commits and bytes.
"""

import random
import signal
import subprocess
import time
from itertools import count
from pathlib import Path

import pytest

from tests.support.hub.publishing import (
    REPOSITORY,
    PublishingHub,
    expect_tree,
    run_hub,
    write_layout,
)
from tests.support.processes import torture
from tests.support.processes.torture import count_cases

SEED = 700
N_SHARDS, SHARD_BYTES = 4, 400_000
WORKERS = 2
N_REQUESTS = 40
# Bytes a second, so few that most kills fall while bytes are sent.
BYTES_A_SECOND = 4_000_000
FAULTS = {
    "reset": {"after": 100_000},
    "lost": {},
    "status": {"code": 503},
    "expire": {},
    "logout": {},
    "stall": {"after": 50_000, "seconds": 1},
}


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight shards, of noise."""
    directory = tmp_path_factory.mktemp("layout") / "dataset"
    return write_layout(directory, n_shards=N_SHARDS, shard_bytes=SHARD_BYTES)


def interrupt(
    hub: PublishingHub, layout: Path, chance: random.Random, *, xet: bool
) -> tuple[str, bool, bool]:
    """Push, and break it off at a random request.

    Returns:
        How it was broken off, whether the interruption took place, and whether the push was
        completed all the same.
    """
    number = chance.randrange(N_REQUESTS)
    how = chance.choice(["kill", "kill", *FAULTS])
    if how != "kill":
        hub.fail("^", how, skip=number, **FAULTS[how])
    hub.fail("PUT ", "throttle", bps=BYTES_A_SECOND, times=-1)
    process = hub.start_push(layout, REPOSITORY, "--max-workers", str(WORKERS), xet=xet)
    while how == "kill" and len(hub.list_requests()) < number and process.poll() is None:
        time.sleep(0.002)
    if how == "kill":
        time.sleep(chance.random() * 0.1)
        process.send_signal(signal.SIGKILL)
    elif chance.random() < 0.5:
        finish(process)
    else:
        time.sleep(chance.random() * 2)
        process.send_signal(signal.SIGTERM)
    finish(process)
    is_done = process.returncode == 0
    is_hit = how != "kill" and hub.state.faults[0].hits > 0
    hub.heal()
    return how, is_hit or not is_done, is_done


def interrupt_often(
    hub: PublishingHub, layout: Path, chance: random.Random, *, xet: bool
) -> list[str]:
    """Break off up to three pushes, until one is completed; return how each was broken off."""
    ways = []
    for _ in range(chance.randint(1, 3)):
        how, is_interruption, is_done = interrupt(hub, layout, chance, xet=xet)
        if is_interruption:
            ways.append(how)
        if is_done:
            break
    return ways


def finish(process: "subprocess.Popen[str]") -> None:
    """Wait for the end, whichever it is."""
    output = process.communicate(timeout=120)[0]
    assert "Traceback" not in output, output


@pytest.mark.slow
@pytest.mark.torture
def test_random_interruptions_cost_nothing(tmp_path: Path, layout: Path) -> None:
    """After one to three interruptions a push ends in exactly one commit of exactly the dataset.

    No more bytes are sent than 1.05 times those of the files and of those that were in flight.
    """
    chance = random.Random(SEED)
    payload = 2 * N_SHARDS * SHARD_BYTES + 1000
    n_interruptions, n_cases, most, turns = 0, count_cases(50, full=500), 0.0, count()
    while n_interruptions < n_cases:
        turn = next(turns)
        xet = turn % 2 == 1
        with run_hub(tmp_path / str(turn)) as hub:
            ways = interrupt_often(hub, layout, chance, xet=xet)
            outcome = hub.push(layout, REPOSITORY, xet=xet)
            what = f"seed {SEED}, turn {turn}, xet {xet}, {ways}"
            assert outcome.returncode == 0, f"{what}: {outcome.stderr}"
            tree = hub.read_tree()
            del tree[".gitattributes"]
            assert tree == expect_tree(layout), what
            assert hub.count_commits() == 1, what
            allowed = 1.05 * payload + len(ways) * WORKERS * SHARD_BYTES
            assert hub.count_put_bytes() <= allowed, what
            most = max(most, hub.count_put_bytes() / payload)
        n_interruptions += len(ways)
    line = (
        f"{n_interruptions} interrupted pushes, seed {SEED}: at most {most:.2f} of the bytes sent"
    )
    torture.say_count(line)
