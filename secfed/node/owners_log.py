"""`node.log` in a node's home: what the node tells its owner only. One line per round; more on request.

A server can make a node write lines at any rate, so the log is bounded (`secfed.bounded_log`). If the log cannot be
written, for example because the disk is full, the line goes to standard error, which a service manager keeps elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from protocols.steps import State
from secfed.bounded_log import BoundedFile, cut, fold_of, repeated, shape_of
from secfed.node.pace import OWNERS_LOG, TOOK_PART

LEVEL = "SECFED_NODE_LOG"
"""Environment variable; with `debug`, every answer is logged."""
_GAVE = frozenset({State.MASKED, State.AGREED, State.UNMASKED, State.SUMMED, State.CLOSED})


class OwnersLog:
    """Writes lines to the owner's log. Never raises: a log must not stop the work."""

    def __init__(self, home: Path) -> None:
        path = home / OWNERS_LOG
        self._file, self._fold = BoundedFile(path), fold_of(path)
        self._in_detail = os.environ.get(LEVEL, "").strip().lower() == "debug"

    def __call__(self, text: str) -> None:
        """Write a line that the owner should see."""
        with contextlib.suppress(Exception):
            line = " ".join(text.splitlines())
            folded = self._fold.admit(shape_of(line))
            if folded is None:
                return
            moment = datetime.now(UTC).isoformat(timespec="milliseconds")
            whole = f"{moment} {cut(line)}{repeated(folded)}"
            if not self._file.append(whole):
                print(whole, file=sys.stderr, flush=True)

    def debug(self, text: str) -> None:
        """Write a line that only the debug level shows."""
        if self._in_detail:
            self(text)


class RoundLines:
    """Logs one line per round joined: whether the node took part, and how long its longest answer took."""

    def __init__(self, tell_owner: Callable[[str], None]) -> None:
        self._tell_owner = tell_owner
        self._number = 0
        self._seconds = 0.0
        self._gave = self._told = False

    def answered(self, session: tuple[int, State] | None, seconds: float) -> None:
        """Record an answer.

        Args:
            session: the round of the node's last session and that session's state; None if there was no session.
            seconds: how long the answer took.
        """
        if session is None:
            return
        number, state = session
        if number != self._number:
            self.end()
            self._number, self._seconds, self._gave, self._told = number, 0.0, False, False
        self._seconds = max(self._seconds, seconds)
        self._gave = self._gave or state in _GAVE
        if state is State.CLOSED and not self._told:
            self._told = True
            self._tell_owner(f"round {number}: {TOOK_PART}{self._seconds:.2f} s")

    def end(self) -> None:
        """The round is over: log it."""
        if self._number and not self._told:
            self._told = True
            gave = f"{TOOK_PART}{self._seconds:.2f} s, but signed no sum"
            self._tell_owner(f"round {self._number}: {gave if self._gave else 'joined, but uploaded nothing'}")
