"""Logs bounded in size and rate, so that nobody can fill a disk with them. A log that fails stops no work.

Messages cost a server nothing, and every refusal writes a line: junk messages of one byte could make gigabytes a day.
So lines of one kind pass in a burst, then one at intervals; the lines between are counted, and the next line that
passes shows the count ("... repeated 1,204 times"). The first line of a kind always passes. Files rotate at a maximum
size, and a few old ones are kept. A log that cannot be written, for example on a full disk, is skipped.
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
"""Files of one log, including the current one: together at most `FILES_KEPT` times `FILE_BYTES`."""
LINE_CHARACTERS = 4_000
"""Longer lines, which may repeat a peer's words, are cut."""
BURST, SECONDS_EACH = 200, 10.0
"""Lines of one kind in a burst, and the seconds until one more may be written."""
KINDS_MAX = 500
"""The most kinds told apart. Beyond that, lines share a kind by origin until other kinds have gone quiet."""
_LOCK_SECONDS = 2.0
_QUOTED, _DIGIT = re.compile(r"'[^']*'|\"[^\"]*\"|\([^)]*\)"), re.compile(r"\d")
_SHAPE_CHARACTERS = 80


def shape_of(text: str) -> str:
    """The kind of a line: its beginning without numbers, quotations and brackets."""
    words = _QUOTED.sub("", text[: 10 * _SHAPE_CHARACTERS]).split()
    return " ".join(word for word in words if not _DIGIT.search(word))[:_SHAPE_CHARACTERS]


def cut(text: str) -> str:
    """A line cut to `LINE_CHARACTERS`, with a note of how much is missing."""
    if len(text) <= LINE_CHARACTERS:
        return text
    return f"{text[:LINE_CHARACTERS]} ... ({len(text) - LINE_CHARACTERS:,} characters more)"


@dataclass(slots=True)
class _Kind:
    """Lines of one kind: how many more may be written now, since when, and how many were held back."""

    left: float
    since: float
    folded: int = 0


@dataclass(slots=True)
class Fold:
    """Decides which lines are written. Thread-safe."""

    burst: int = BURST
    seconds_each: float = SECONDS_EACH
    kinds_max: int = KINDS_MAX
    clock: Callable[[], float] = time.monotonic
    _kinds: dict[Hashable, _Kind] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def admit(self, kind: Hashable, instead: Hashable = None) -> int | None:
        """Decide whether to write a line.

        Args:
            kind: the line's kind.
            instead: the kind to use if too many kinds are known already; there must be few of these.

        Returns:
            How many lines of its kind were held back since the last one written; None if this one is held back, too.
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
        """Forget kinds whose burst is full again."""
        quiet = self.burst * self.seconds_each
        self._kinds = {kind: each for kind, each in self._kinds.items() if now - each.since < quiet}


def repeated(count: int) -> str:
    """The note after a line about the lines held back before it."""
    return f" ... repeated {count:,} times" if count else ""


class BoundedFile:
    """Appends lines to a file that several processes may share, and rotates it at a maximum size. Never raises."""

    def __init__(self, path: Path, most_bytes: int = FILE_BYTES, kept: int = FILES_KEPT, mode: int = 0o600) -> None:
        """
        Args:
            path: the file; older files lie beside it as `NAME.1` and so on.
            most_bytes: the size limit of each file.
            kept: the number of files, including the current one.
            mode: permissions of the files.
        """
        self.path = path
        self._most_bytes = most_bytes
        self._kept = kept
        self._mode = mode

    def append(self, line: str) -> bool:
        """Write a line, cut if it is too long. Returns False if it could not be written."""
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
        except (OSError, ValueError):  # ValueError: a path with a zero byte
            return False
        return True

    def _open(self) -> int:
        """The current file, locked: another process may have rotated it meanwhile."""
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
            self.path.unlink()  # exists if no older file is kept

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}") if number else self.path


def _lock(descriptor: int) -> None:
    """Lock the file. Waits at most `_LOCK_SECONDS`, so that a stopped process with the lock cannot stop this one."""
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
    """Append to a locked file. If the disk fills up in the middle of a line, nothing of the line stays."""
    before = os.fstat(descriptor).st_size
    if os.write(descriptor, data) < len(data):
        os.ftruncate(descriptor, before)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _Folded(logging.Handler):
    """A logging handler that folds repeated lines. Lines of one kind come from one place in the code and look alike."""

    def __init__(self, fold: Fold | None = None) -> None:
        super().__init__()
        self._fold = fold or Fold()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record or count it. Never raises."""
        try:
            place = record.name, record.pathname, record.lineno
            folded = self._fold.admit((*place, shape_of(str(record.msg))), place)
            if folded is not None:
                self.put(cut(self.format(record)) + repeated(folded))
        except Exception:  # noqa: S110 - where a log cannot be written there is nowhere to say so
            pass

    def put(self, text: str) -> None:
        """Write text of one or more lines."""
        raise NotImplementedError


class FileLog(_Folded):
    """A log in a file, named in FLARE's log configuration."""

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
    """A log on standard output. Its reader bounds its size: journald, under systemd."""

    def put(self, text: str) -> None:
        """Print the text."""
        print(text, file=sys.stdout, flush=True)


class LineStream:
    """A file-like object for programs that write whole lines and accept no logging handler."""

    def __init__(self, path: Path, kind: Callable[[str], Hashable]) -> None:
        """
        Args:
            path: the file.
            kind: returns a line's kind.
        """
        self._file, self._kind, self._fold = BoundedFile(path), kind, Fold()

    def write(self, text: str) -> int:
        """Append a line or count it."""
        line = text.rstrip("\n")
        folded = self._fold.admit(self._kind(line))
        if folded is not None:
            self._file.append(cut(line) + repeated(folded))
        return len(text)

    def flush(self) -> None:
        """Does nothing: no line is buffered."""

    def close(self) -> None:
        """Does nothing: no file stays open."""


_FOLDS: dict[Path, Fold] = {}
_FOLDS_LOCK = threading.Lock()


def fold_of(path: Path) -> Fold:
    """The folding shared by all logs of this process on the same file."""
    with contextlib.suppress(OSError):  # a deleted working folder has no absolute path
        path = path.absolute()
    with _FOLDS_LOCK:
        return _FOLDS.setdefault(path, Fold())
