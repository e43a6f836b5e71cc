"""Logs that nobody can fill a disk with: bounded in size and in rate, whatever the cause. They end nothing.

What a server sends costs it nothing, and every refusal is a line: one junk byte a time makes gigabytes a day. So lines
of one kind are let through in a burst, then one in a while; those between are counted, and the count stands at the next
("... repeated 1,204 times"). The first line of a kind is never among them. Files are turned over at a size, and a few
old ones kept. A log that cannot be written, on a full disk as elsewhere, is left out: no work ends for it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path

FILE_BYTES, FILES_KEPT = 4 << 20, 4
"""Of one log: the file that is written to and the old ones, together at most `FILES_KEPT` times `FILE_BYTES`."""
LINE_CHARACTERS = 4_000
"""Longer ones, in which a peer's words may be repeated, are cut."""
BURST, SECONDS_EACH = 200, 10.0
"""Lines of one kind at once, and the time after which one more may be written."""
KINDS_MAX = 500
"""That are told apart. Beyond them lines share a kind by where they come from, until others have been quiet."""
_LOCK_SECONDS = 2.0
_QUOTED, _DIGIT = re.compile(r"'[^']*'|\"[^\"]*\"|\([^)]*\)"), re.compile(r"\d")
_SHAPE_CHARACTERS = 80


def shape_of(text: str) -> str:
    """What lines of one kind have in common: their beginning without numbers, quotations and brackets."""
    words = _QUOTED.sub("", text[: 10 * _SHAPE_CHARACTERS]).split()
    return " ".join(word for word in words if not _DIGIT.search(word))[:_SHAPE_CHARACTERS]


def cut(text: str) -> str:
    """A line of at most `LINE_CHARACTERS`, and how much is missing."""
    if len(text) <= LINE_CHARACTERS:
        return text
    return f"{text[:LINE_CHARACTERS]} ... ({len(text) - LINE_CHARACTERS:,} characters more)"


@dataclass(slots=True)
class _Kind:
    """Lines of one kind: how many may be written at once, since when, and how many were not."""

    left: float
    since: float
    folded: int = 0


@dataclass(slots=True)
class Fold:
    """Decides which lines are written. For several threads."""

    burst: int = BURST
    seconds_each: float = SECONDS_EACH
    kinds_max: int = KINDS_MAX
    clock: Callable[[], float] = time.monotonic
    _kinds: dict[Hashable, _Kind] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def admit(self, kind: Hashable, instead: Hashable = None) -> int | None:
        """Whether a line is to be written.

        Args:
            kind: which lines are like it.
            instead: its kind where too many are told apart already; there have to be few of these.

        Returns:
            How many lines like it were not written since the last that was; None where this one is not, either.
        """
        now = self.clock()
        with self._lock:
            found = self._kinds.get(kind)
            if found is None and len(self._kinds) >= self.kinds_max:
                self._forget_the_quiet(now)
                if len(self._kinds) >= self.kinds_max:
                    kind = ("others", instead)
                    found = self._kinds.get(kind)
            if found is None:
                found = self._kinds[kind] = _Kind(float(self.burst), now)
            found.left = min(float(self.burst), found.left + (now - found.since) / self.seconds_each)
            found.since = now
            if found.left < 1.0:
                found.folded += 1
                return None
            found.left -= 1.0
            before, found.folded = found.folded, 0
            return before

    def _forget_the_quiet(self, now: float) -> None:
        """A kind that has its whole burst again need not be remembered."""
        quiet = self.burst * self.seconds_each
        self._kinds = {kind: each for kind, each in self._kinds.items() if now - each.since < quiet}


def repeated(count: int) -> str:
    """What is put behind a line for those before it that were not written."""
    return f" ... repeated {count:,} times" if count else ""


class BoundedFile:
    """Appends lines to a file that several processes may share, turns it over at a size; raises nothing for that."""

    def __init__(self, path: Path, most_bytes: int = FILE_BYTES, kept: int = FILES_KEPT, mode: int = 0o600) -> None:
        """
        Args:
            path: the file; older ones are beside it, as `NAME.1` and so on.
            most_bytes: of each.
            kept: how many there are, with the one that is written to.
            mode: who may read them.
        """
        self.path = path
        self._most_bytes = most_bytes
        self._kept = kept
        self._mode = mode

    def append(self, line: str) -> bool:
        """Write a line, cut if it is too long. False where that could not be done."""
        data = f"{cut(line)}\n".encode(errors="replace")
        try:
            with contextlib.ExitStack() as stack:
                descriptor = self._open()
                stack.callback(os.close, descriptor)
                while os.fstat(descriptor).st_size + len(data) > self._most_bytes and os.fstat(descriptor).st_size:
                    self._turn_over()
                    descriptor = self._open()
                    stack.callback(os.close, descriptor)
                _write_whole_line(descriptor, data)
        except (OSError, ValueError):  # a path with a zero byte is a ValueError
            return False
        return True

    def _open(self) -> int:
        """The file as it is now, locked: another process may have turned it over meanwhile."""
        while True:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, self._mode)
            try:
                _lock(descriptor)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(descriptor), self.path.stat()):
                        return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _turn_over(self) -> None:
        for number in range(self._kept - 1, 0, -1):
            before = self._numbered(number - 1)
            with contextlib.suppress(FileNotFoundError):
                before.replace(self._numbered(number))
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()  # it is there where no older one is kept

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}") if number else self.path


def _lock(descriptor: int) -> None:
    """Lock it, and wait for another process no longer than `_LOCK_SECONDS`: one that is stopped must not stop this."""
    until = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise
        time.sleep(0.01)


def _write_whole_line(descriptor: int, data: bytes) -> None:
    """Append to a locked file; a disk that is full in the middle of a line gets none of it."""
    before = os.fstat(descriptor).st_size
    if os.write(descriptor, data) < len(data):
        os.ftruncate(descriptor, before)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _Folded(logging.Handler):
    """A handler of Python's logging that folds. Lines of one kind come from one place in the code, and look alike."""

    def __init__(self, fold: Fold | None = None) -> None:
        super().__init__()
        self._fold = fold or Fold()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it. Never raises."""
        try:
            place = record.name, record.pathname, record.lineno
            folded = self._fold.admit((*place, shape_of(str(record.msg))), place)
            if folded is not None:
                self.put(cut(self.format(record)) + repeated(folded))
        except Exception:  # noqa: S110 - where a log cannot be written there is nowhere to say so
            pass

    def put(self, text: str) -> None:
        """Write text of one line or several."""
        raise NotImplementedError


class FileLog(_Folded):
    """A log in a file, as FLARE's configuration of its logs names it."""

    def __init__(self, filename: str, fold: Fold | None = None) -> None:
        """
        Args:
            filename: the file.
            fold: decides which lines are written.
        """
        super().__init__(fold)
        self._file = BoundedFile(Path(filename))

    def put(self, text: str) -> None:
        """Append it."""
        self._file.append(text)


class ConsoleLog(_Folded):
    """A log on standard output. Its size is bounded by whoever keeps it: journald, under systemd."""

    def put(self, text: str) -> None:
        """Print it."""
        print(text, file=sys.stdout, flush=True)


class LineStream:
    """What a program takes for an open file, and writes whole lines to; for those that cannot be given a handler."""

    def __init__(self, path: Path, kind: Callable[[str], Hashable]) -> None:
        """
        Args:
            path: the file.
            kind: which lines are alike.
        """
        self._file, self._kind, self._fold = BoundedFile(path), kind, Fold()

    def write(self, text: str) -> int:
        """Append a line, or count it."""
        line = text.rstrip("\n")
        folded = self._fold.admit(self._kind(line))
        if folded is not None:
            self._file.append(cut(line) + repeated(folded))
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is open."""


_FOLDS: dict[Path, Fold] = {}
_FOLDS_LOCK = threading.Lock()


def fold_of(path: Path) -> Fold:
    """The one that all of this process share for a file."""
    with contextlib.suppress(OSError):  # there is no absolute path where the working folder is gone
        path = path.absolute()
    with _FOLDS_LOCK:
        return _FOLDS.setdefault(path, Fold())
