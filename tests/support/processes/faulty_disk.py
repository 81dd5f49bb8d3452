"""Makes a disk fail on purpose: refuses one system call of a process, cuts it short or kills there.

The kernel asks us before each call that would change the directory, by seccomp's user
notification.
"""

import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

LOOK_SECONDS = 30.0
"""After so long without a call it is looked whether a process hangs, and again after as long."""
CPU_SECONDS = 60
"""A process that computes for so long is ended by the kernel, with SIGXCPU."""
WRITING_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER = 8
SECCOMP_RET_USER_NOTIF = 0x7FC00000
SECCOMP_RET_ALLOW = 0x7FFF0000
SECCOMP_USER_NOTIF_FLAG_CONTINUE = 1
SECCOMP_ADDFD_FLAG_SETFD = 1
SECCOMP_IOCTL_NOTIF_RECV = 0xC0502100
SECCOMP_IOCTL_NOTIF_SEND = 0xC0182101
SECCOMP_IOCTL_NOTIF_ADDFD = 0x40182103
AT_FDCWD = -100
GONE = (FileNotFoundError, ProcessLookupError)
"""What asking about a call raises once its process is killed; its other threads have asked too."""
SLEEPS = "S"
"""The state of a thread that waits for something other than a processor or the disk."""
CUT_ACTIONS = {"torn": "kill", "short": "go on"}
"""The actions that replace these for a call that cannot be cut short."""
# Instructions of a filter: load a word, jump if it is equal, jump if it shares a bit, return.
LOAD, JUMP_EQUAL, JUMP_SET, RETURN = 0x20, 0x15, 0x45, 0x06
NR_OFFSET, ARCH_OFFSET, ARGS_OFFSET = 0, 4, 16


class Trap(NamedTuple):
    """A system call that changes files, and which of its arguments say which file."""

    kind: str
    x86_64: int | None
    """Its number on this kind of processor, None where it has none."""
    aarch64: int | None
    fd: int | None = None
    """The argument that is an open file."""
    path: tuple[int | None, int] = (None, 0)
    """Two arguments, an open directory, or None, and a path; of a rename those of the new name."""
    flags: int | None = None
    """The argument with an opening's flags: only files opened for writing count."""
    size: int | None = None
    """The argument with the number of bytes of a write that can be cut short."""


TRAPS = (
    Trap("open", 2, None, flags=1),
    Trap("open", 257, 56, path=(0, 1), flags=2),  # openat
    Trap("open", 85, None),  # creat
    Trap("write", 1, 64, fd=0, size=2),
    Trap("write", 20, 66, fd=0),  # writev
    Trap("write", 18, 68, fd=0),  # pwrite64
    Trap("write", 296, 70, fd=0),  # pwritev
    Trap("fsync", 74, 82, fd=0),
    Trap("fsync", 75, 83, fd=0),  # fdatasync
    Trap("truncate", 77, 46, fd=0),  # ftruncate
    Trap("rename", 82, None, path=(None, 1)),
    Trap("rename", 264, 38, path=(2, 3)),  # renameat
    Trap("rename", 316, 276, path=(2, 3)),  # renameat2
    Trap("unlink", 87, None),
    Trap("unlink", 84, None),  # rmdir
    Trap("unlink", 263, 35, path=(0, 1)),  # unlinkat
    Trap("mkdir", 83, None),
    Trap("mkdir", 258, 34, path=(0, 1)),  # mkdirat
)


class Machine(NamedTuple):
    """The numbers that a kind of processor has for system calls."""

    arch: int
    seccomp: int
    traps: dict[int, Trap]


MACHINES = {
    "x86_64": Machine(0xC000003E, 317, {t.x86_64: t for t in TRAPS if t.x86_64 is not None}),
    "aarch64": Machine(0xC00000B7, 277, {t.aarch64: t for t in TRAPS if t.aarch64 is not None}),
}


@dataclass(frozen=True, slots=True)
class Call:
    """One call that would change the directory."""

    kind: str
    """`open`, `write`, `fsync`, `truncate`, `rename`, `unlink` or `mkdir`."""
    path: str
    """Path of the file, relative to the directory; the new one for a rename."""
    size: int
    """Bytes of a plain `write`; 0 for everything else."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault at one of the calls, which count from 0."""

    call: int
    action: str
    """The name of an errno, with which the one call fails, or one of these:

    - `kill`: the process group is killed instead of the call.
    - `torn`: half of the bytes are written, then the process group is killed.
    - `short`: half of the bytes are written, and the call says so.
    - `full`: as `short`, and from there on there is no space for anything.
    - `read-only`: from there on nothing can be changed.
    """


class Request(NamedTuple):
    """A call that waits for an answer."""

    id: int
    pid: int
    trap: Trap
    args: list[int]


def choose_action(fault: Fault | None, number: int, call: Call) -> str:
    """Return what to do with a call: `go on`, the name of an errno, `kill`, `torn` or `short`."""
    can_be_cut = call.size > 1
    if fault is None or number < fault.call:
        return "go on"
    if fault.action == "read-only":
        return "EROFS"
    if fault.action == "full":
        if call.kind in ("unlink", "rename"):
            return "go on"
        return "short" if number == fault.call and can_be_cut else "ENOSPC"
    if number > fault.call:
        return "go on"
    return fault.action if can_be_cut else CUT_ACTIONS.get(fault.action, fault.action)


def install_filter(machine: Machine) -> int:
    """Trap the calls of this process that change files; return the listener that is asked.

    Raises:
        OSError: the kernel, or the container, allows no such thing.
    """
    code = assemble_filter(machine)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HL", len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS is refused")
    mode = (SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER)
    listener: int = libc.syscall(machine.seccomp, *mode, program)
    if listener < 0:
        raise OSError(ctypes.get_errno(), "a filter with a listener is refused")
    return listener


def assemble_filter(machine: Machine) -> bytes:
    """Return the filter as the kernel's machine code."""
    code = [(LOAD, 0, 0, ARCH_OFFSET), (JUMP_EQUAL, 1, 0, machine.arch)]
    code += [(RETURN, 0, 0, SECCOMP_RET_ALLOW), (LOAD, 0, 0, NR_OFFSET)]
    for number, trap in machine.traps.items():
        if trap.flags is None:
            code += [(JUMP_EQUAL, 0, 1, number)]
        else:
            code += [(JUMP_EQUAL, 0, 4, number), (LOAD, 0, 0, ARGS_OFFSET + 8 * trap.flags)]
            code += [(JUMP_SET, 1, 0, WRITING_FLAGS), (RETURN, 0, 0, SECCOMP_RET_ALLOW)]
        code += [(RETURN, 0, 0, SECCOMP_RET_USER_NOTIF)]
    code += [(RETURN, 0, 0, SECCOMP_RET_ALLOW)]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def read_threads(pid: int) -> dict[str, tuple[str, int]]:
    """Return the state of each thread of a process, and its processor time in ticks."""
    threads = {}
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            fields = (thread / "stat").read_text().rpartition(")")[2].split()
            threads[thread.name] = (fields[0], int(fields[11]) + int(fields[12]))
    return threads


class Disk:
    """Answers the calls of one program, all with "go on" but for the fault."""

    def __init__(self, listener: int, pid: int, directory: Path, fault: Fault | None) -> None:
        """Watch a process, which leads a group of its own and whose listener this is."""
        self._listener = listener
        self._pid = pid
        self._directory = directory
        self._fault = fault
        self._traps = MACHINES[platform.machine()].traps
        self.calls: list[Call] = []

    def watch(self) -> bool:
        """Answer until the process has ended; kill it and return True if it hangs.

        It does if all its threads sleep and none has got on since the last look. However long it
        takes on a machine that is busy, asleep or slow to write, it does not hang.
        """
        poller = select.poll()
        poller.register(self._listener, select.POLLIN)
        process = os.pidfd_open(self._pid)
        poller.register(process, select.POLLIN)
        before: dict[str, tuple[str, int]] = {}
        try:
            while True:
                events = dict(poller.poll(1000 * LOOK_SECONDS))
                if events.get(self._listener, 0) & select.POLLIN:
                    self._answer()
                    before = {}
                elif process in events:
                    return False
                elif events:
                    # Nothing asks any more; what is left is the end of the process.
                    poller.unregister(self._listener)
                else:
                    now = read_threads(self._pid)
                    if now == before and {state for state, _ in now.values()} == {SLEEPS}:
                        os.killpg(self._pid, signal.SIGKILL)
                        return True
                    before = now
        finally:
            os.close(process)

    def _answer(self) -> None:
        """Take one call in, and let it go on, fail or be the last."""
        buffer = bytearray(80)
        try:
            fcntl.ioctl(self._listener, SECCOMP_IOCTL_NOTIF_RECV, buffer)
        except GONE:
            return
        number, pid, trap, *args = struct.unpack("QI4xi12x6q", buffer)
        request = Request(number, pid, self._traps[trap], args)
        path = None
        with suppress(*GONE):
            path = self._find(request)
        action = "go on"
        if path is not None:
            size = request.trap.size
            call = Call(request.trap.kind, path, 0 if size is None else request.args[size])
            self.calls.append(call)
            action = choose_action(self._fault, len(self.calls) - 1, call)
        if action in ("kill", "torn"):
            if action == "torn":
                self._write_half(request)
            os.killpg(self._pid, signal.SIGKILL)
            return
        self._reply(request, action)

    def _reply(self, request: Request, action: str) -> None:
        """Answer a call with "go on", the errno of this name or half of its bytes."""
        value, error, flags = 0, 0, 0
        if action == "go on":
            flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE
        elif action == "short":
            value = self._write_half(request)
        else:
            error = -int(getattr(errno, action))
        answer = struct.pack("QqiI", request.id, value, error, flags)
        with suppress(*GONE):
            fcntl.ioctl(self._listener, SECCOMP_IOCTL_NOTIF_SEND, answer)

    def _find(self, request: Request) -> str | None:
        """Return the file of a call relative to the directory, None if it lies elsewhere."""
        if request.trap.fd is not None:
            link = Path(f"/proc/{request.pid}/fd/{request.args[request.trap.fd]}")
            path = Path(str(link.readlink()).removesuffix(" (deleted)"))
        else:
            path = self._read_path(request, *request.trap.path)
        is_inside = path.is_relative_to(self._directory)
        return str(path.relative_to(self._directory)) if is_inside else None

    def _read_path(self, request: Request, base: int | None, argument: int) -> Path:
        """Return the absolute path that an argument points to."""
        place = Path("/proc", str(request.pid))
        text = os.fsdecode(self._read_memory(request, argument, 4096).split(b"\0")[0])
        descriptor = AT_FDCWD if base is None else ctypes.c_int(request.args[base]).value
        start = place / "cwd" if descriptor == AT_FDCWD else place / "fd" / str(descriptor)
        path = Path(text) if text.startswith("/") else start.readlink() / text
        return Path(os.path.realpath(path.parent)) / path.name

    def _read_memory(self, request: Request, argument: int, size: int) -> bytes:
        """Return what an argument points to."""
        descriptor = os.open(f"/proc/{request.pid}/mem", os.O_RDONLY)
        try:
            return os.pread(descriptor, size, request.args[argument])
        finally:
            os.close(descriptor)

    def _write_half(self, request: Request) -> int:
        """Write the first half of a plain `write`; return how many bytes that is."""
        fd = request.args[0]
        data = self._read_memory(request, 1, request.args[2] // 2)
        words = Path(f"/proc/{request.pid}/fdinfo/{fd}").read_text().split()
        position, flags = int(words[1]), int(words[3], 8)
        # The process gets this opening of the file for its own: its place is after the half.
        own = os.open(f"/proc/{request.pid}/fd/{fd}", flags & (os.O_ACCMODE | os.O_APPEND))
        try:
            os.lseek(own, position, os.SEEK_SET)
            n_written = os.write(own, data)
            mode = (SECCOMP_ADDFD_FLAG_SETFD, own, fd, flags & os.O_CLOEXEC)
            addfd = struct.pack("QIIII", request.id, *mode)
            fcntl.ioctl(self._listener, SECCOMP_IOCTL_NOTIF_ADDFD, addfd)
        finally:
            os.close(own)
        return n_written
