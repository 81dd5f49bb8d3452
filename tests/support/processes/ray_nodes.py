"""Starts nodes of a Ray cluster on this machine, looks into them and kills them."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.processes.checkout import SOURCE_PATHS

ENVIRONMENT = {
    "PYTHONPATH": SOURCE_PATHS,
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A node that is gone is missed within seconds.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}
NODE_OPTIONS = (
    "--node-ip-address=127.0.0.1", "--num-cpus=1", "--num-gpus=0",
    "--object-store-memory=100000000", "--min-worker-port=0", "--max-worker-port=0",
    "--disable-usage-stats", "--block",
)  # fmt: skip
START_SECONDS = 120


@dataclass(frozen=True, slots=True)
class RayNode:
    """One node: the process of `ray start`, and all that it has started."""

    process: subprocess.Popen[bytes]
    address: str
    """Address of the cluster's head."""

    def list_processes(self) -> list[psutil.Process]:
        """Return what belongs to the node."""
        with suppress(psutil.Error):
            start = psutil.Process(self.process.pid)
            return [start, *start.children(recursive=True)]
        return []

    def list_tasks(self) -> list[psutil.Process]:
        """Return the processes that run a task of a build."""
        tasks = []
        for process in self.list_processes():
            with suppress(psutil.Error):
                tasks += [process] if "ray::encode_group" in process.cmdline() else []
        return tasks

    def list_held(self, parts: Path) -> list[str]:
        """Return the names of the parts that the node is working at, by the locks it holds."""
        names = []
        for process in self.list_tasks():
            with suppress(psutil.Error):
                files = [Path(file.path) for file in process.open_files()]
                names += [
                    file.stem for file in files if (file.parent, file.suffix) == (parts, ".lock")
                ]
        return names

    def kill(self) -> None:
        """End all of the node at once, as a power cut does."""
        processes = self.list_processes()
        for process in processes:
            with suppress(psutil.Error):
                process.kill()
        self.process.wait()
        psutil.wait_procs(processes, timeout=30)


@contextmanager
def run_node(directory: Path, name: str, *, head: RayNode | None = None) -> Iterator[RayNode]:
    """Run a node while the block does.

    Args:
        directory: of Ray's files; its path must be short, for sockets lie in it.
        name: of the node's log.
        head: of the cluster that it joins; None makes it the head of a new one.
    """
    address = find_address() if head is None else head.address
    place = [f"--address={address}"]
    if head is None:
        port = address.partition(":")[2]
        place = ["--head", f"--port={port}", "--include-dashboard=false"]
        place += [f"--temp-dir={directory}"]
    ray = Path(sys.executable).with_name("ray")
    log = directory / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [ray, "start", *place, *NODE_OPTIONS],
            env={**os.environ, **ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    node = RayNode(process, address)
    try:
        end = time.monotonic() + START_SECONDS
        while b"Ray runtime started" not in log.read_bytes():
            assert process.poll() is None, log.read_text(encoding="utf-8")
            assert time.monotonic() < end, log.read_text(encoding="utf-8")
            time.sleep(0.05)
        yield node
    finally:
        node.kill()


def find_address() -> str:
    """Return an address of this machine at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"
