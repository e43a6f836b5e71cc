"""A child process that is killed with SIGKILL at its n-th step, so that every step can be tried in turn.

Two kinds of steps. A *line*: every line, and every return, of the named source files, counted by a trace function in
the child, which then kills its own process. A *call*: every system call by which a process changes anything that
outlives it, a file or a pipe; a second process counts them by ptrace and kills the first *before* the call is done.
Between two such calls a killed process leaves the same behind wherever it was, so that all calls are all instructions.
(SQLite's shared memory is left out: whoever opens a database first builds it anew.)

The process that forks must hold no database open and run no threads: see `tests.system.kills`, which is run by itself.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any, Literal

Kind = Literal["line", "call"]
Body = Callable[[Connection], None]
"""What the child does. It talks through the connection."""

NEVER = 1 << 62
"""The number of a step that is not reached: the child ends by itself, and its steps are counted."""
_ROOT = Path(__file__).resolve().parents[2]

# ptrace(2), and the numbers of Linux on x86-64.
_TRACEME, _SYSCALL, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E
_EXITKILL, _TRACESYSGOOD = 0x100000, 1
_AT_CALL = signal.SIGTRAP | 0x80
_ENTRY = 1
_INFO_BYTES = 88
_CALLS = {
    1: "write",
    18: "pwrite64",
    20: "writev",
    44: "sendto",
    46: "sendmsg",
    74: "fsync",
    75: "fdatasync",
    77: "ftruncate",
    82: "rename",
    87: "unlink",
    91: "fchmod",
    257: "openat",
    263: "unlinkat",
    285: "fallocate",
}
_OF_A_DESCRIPTOR = frozenset(_CALLS.values()) - {"rename", "unlink", "openat", "unlinkat"}
_OPENAT_FLAGS = 2


@dataclass(frozen=True)
class End:
    """How a child ended."""

    killed: bool
    places: tuple[str, ...]
    """Every step that it came to; the last is the one at which it was killed."""


class Victim:
    """A child that runs `body`, killed at step `number` of a kind. What it sends before that, it has sent."""

    def __init__(self, body: Body, kind: Kind, number: int, files: frozenset[str]) -> None:
        """
        Args:
            body: run in the child.
            kind: which steps are counted.
            number: the step to die at, 1 for the first.
            files: source files, relative to the repository, whose lines count.
        """
        self._connection, theirs = Pipe()
        self._report = tempfile.TemporaryFile()  # noqa: SIM115 (`end` closes it)
        report = self._report.fileno()
        self._child = os.fork()
        if self._child == 0:
            self._connection.close()
            if kind == "line":
                _run_counting_lines(body, theirs, report, number, files)
            else:
                _watch(body, theirs, report, number)
        theirs.close()

    def ask(self, request: bytes) -> bytes | None:
        """Send a request and wait for the answer; None once the child is dead."""
        try:
            self._connection.send_bytes(request)
            return self._connection.recv_bytes()
        except (EOFError, ConnectionError):
            return None

    def hear(self) -> bytes | None:
        """Wait for what it says next; None once the child is dead."""
        try:
            return self._connection.recv_bytes()
        except (EOFError, ConnectionError):
            return None

    def end(self) -> End:
        """Hang up, and wait for the child's end.

        Raises:
            RuntimeError: it ended in another way than by its own choice or by the kill.
        """
        self._connection.close()
        _, status = os.waitpid(self._child, 0)
        with self._report as report:
            report.seek(0)
            word, *places = report.read().decode().split("\n")
        died_by_its_own_hand = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if word not in ("killed", "ended") or not (died_by_its_own_hand or status == 0):
            raise RuntimeError(f"the child ended with status {status}: {word}")
        return End(word == "killed", tuple(places))


def can_count(kind: Kind) -> bool:
    """Whether this machine can count steps of this kind, and lets us. Forks."""
    if kind == "line":
        return True
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    try:
        Victim(lambda connection: None, kind, NEVER, frozenset()).end()
    except RuntimeError:
        return False  # where processes may not be traced
    return True


def _tell(report: int, word: str, places: list[str]) -> None:
    os.pwrite(report, "\n".join([word, *places]).encode(), 0)


def _run_counting_lines(body: Body, connection: Connection, report: int, number: int, files: frozenset[str]) -> None:
    """In the child: run the body, and kill this very process at its `number`-th line. Never returns."""
    names = {str(_ROOT / name): name for name in files}
    places: list[str] = []

    def at_call(frame: FrameType, event: str, argument: Any) -> Any:
        return at_line if frame.f_code.co_filename in names else None

    def at_line(frame: FrameType, event: str, argument: Any) -> Any:
        if event in ("line", "return"):
            places.append(f"{event} {names[frame.f_code.co_filename]}:{frame.f_lineno}")
            if len(places) == number:
                _tell(report, "killed", places)
                os.kill(os.getpid(), signal.SIGKILL)
        return at_line

    status = 1
    try:
        sys.settrace(at_call)
        body(connection)
        sys.settrace(None)
        _tell(report, "ended", places)
        status = 0
    except BaseException as error:
        _tell(report, repr(error), [])
    finally:
        os._exit(status)


def _watch(body: Body, connection: Connection, report: int, number: int) -> None:
    """In the child: fork once more, and kill that process before its `number`-th call. Never returns."""
    status = 1
    try:
        watched = os.fork()
        if watched == 0:
            os.close(report)
            _run_watched(body, connection)
        connection.close()  # or nobody would see that the watched process is gone
        killed, places = _count_calls(watched, number)
        _tell(report, "killed" if killed else "ended", places)
        status = 0
    except BaseException as error:
        _tell(report, repr(error), [])
    finally:
        os._exit(status)


def _run_watched(body: Body, connection: Connection) -> None:
    status = 1
    try:
        _ptrace(_TRACEME, 0, 0, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        body(connection)
        status = 0
    finally:
        os._exit(status)


def _count_calls(process: int, number: int) -> tuple[bool, list[str]]:
    """Let a process run from call to call. Whether it was killed, and the calls that it came to."""
    os.waitpid(process, 0)
    _ptrace(_SETOPTIONS, process, 0, _EXITKILL | _TRACESYSGOOD)
    places: list[str] = []
    while True:
        _ptrace(_SYSCALL, process, 0, None)
        _, status = os.waitpid(process, 0)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            if status != 0:
                raise RuntimeError(f"status {status}")
            return False, places
        place = _visible_call(process) if os.WSTOPSIG(status) == _AT_CALL else None
        if place is not None:
            places.append(place)
            if len(places) == number:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                return True, places


def _visible_call(process: int) -> str | None:
    """The call that a process is about to make, if it changes what outlives the process."""
    info = ctypes.create_string_buffer(_INFO_BYTES)
    _ptrace(_GET_SYSCALL_INFO, process, _INFO_BYTES, ctypes.addressof(info))
    if info.raw[0] != _ENTRY:
        return None
    number, *arguments = struct.unpack_from("7Q", info.raw, 24)
    name = _CALLS.get(number)
    if name is None or (name == "openat" and not arguments[_OPENAT_FLAGS] & os.O_CREAT):
        return None
    if name not in _OF_A_DESCRIPTOR:
        return f"before {name}"
    target = Path(f"/proc/{process}/fd/{arguments[0]}").readlink().name
    return f"before {name} to {'the connection' if target.startswith('socket:') else target}"


_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_LIBC.ptrace.restype = ctypes.c_long


def _ptrace(request: int, process: int, address: int, data: int | None) -> None:
    if _LIBC.ptrace(request, process, address, data) < 0:
        raise OSError(ctypes.get_errno(), "ptrace is refused")
