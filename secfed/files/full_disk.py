"""Waits while a disk is full, and writes once there is room.

This is for the aggregator, whose run nobody watches at night: it stops where it is, says so, and goes on by itself.
`Room.write` repeats an action from its beginning, so the action must give the same result however far it got before.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from secfed.files.whole import write_whole

PAUSE_SECONDS = 5.0
"""Between two attempts."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FULL_IN_RUST = f"(os error {errno.ENOSPC})"
"""The words of safetensors, which raises its own type of error."""
_PROBE_BYTES = 1 << 20
_Got = TypeVar("_Got")


def is_full(error: BaseException) -> bool:
    """Whether an error, or one of its causes, says that a disk or a quota is full."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            if cause.errno in _FULL:
                return True
        elif _FULL_IN_RUST in str(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def has_room(folder: Path) -> bool:
    """Whether there is room to write a little there. True also if something else is wrong with the folder."""
    probe = folder / ".secfed-room"
    try:
        write_whole(probe, bytes(_PROBE_BYTES))
    except OSError as error:
        return not is_full(error)
    finally:
        probe.unlink(missing_ok=True)
    return True


class Room:
    """Writes as soon as there is room."""

    def __init__(
        self, full: Callable[[str], None], again: Callable[[], None], pause: Callable[[float], None] = time.sleep
    ) -> None:
        """
        Args:
            full: called with the disk's error when a wait begins; it may not be able to write either.
            again: called when the wait is over.
            pause: waits for so many seconds. What it raises ends the wait.
        """
        self._full = full
        self._again = again
        self._pause = pause

    def write(self, act: Callable[[], _Got]) -> _Got:
        """Do this. If the disk is full, wait and do it again."""
        waits = False
        while True:
            try:
                got = act()
            except Exception as error:
                if not is_full(error):
                    raise
                if not waits:
                    self._full(str(error))
                waits = True
                self._pause(PAUSE_SECONDS)
                continue
            if waits:
                self._again()
            return got
