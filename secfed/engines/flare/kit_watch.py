"""Warns, while a program runs, that its certificate is about to expire or has expired.

An open connection outlives its certificate: the study continues, and stops only when the connection is next
interrupted. FLARE does not warn of this. No nvflare.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from secfed.engines.flare.kit_check import Role, certificate_of, check_start, read_kit, remember
from secfed.errors import UserError
from secfed.node.owners_log import OwnersLog

_LOOK_SECONDS = 3600.0
_TELL_AGAIN = timedelta(days=1)


class KitWatch:
    """Warns a kit's owner: once a day while something is wrong, and at once when that changes."""

    def __init__(self, kit: Path, tell: Callable[[str], None]) -> None:
        """
        Args:
            kit: the kit that started this program.
            tell: called with a line.
        """
        self._kit = kit
        self._tell = tell
        self._failed = False
        self._told_at: datetime | None = None

    def look(self, now: datetime) -> float:
        """Check the kit, and tell the owner what is due. Returns the seconds until the next check."""
        try:
            lines = check_start(self._kit, read_kit(self._kit).role, now)[1]
            failed = False
        except UserError as error:
            lines = [f"{error} Open connections stay open; no new connection will work"]
            failed = True
        due = self._told_at is None or abs(now - self._told_at) >= _TELL_AGAIN or failed != self._failed
        if lines and due:
            self._told_at = now
            for line in lines:
                self._tell(line)
        elif not lines:
            self._told_at = None
        self._failed = failed
        return self._until_next(now)

    def _until_next(self, now: datetime) -> float:
        """One hour, or less if it expires sooner, so that the owner is told at that moment."""
        try:
            paths = read_kit(self._kit)
            ends = min(certificate_of(each).not_valid_after_utc for each in (paths.certificate, paths.root))
        except UserError:
            return _LOOK_SECONDS
        left = (ends - now).total_seconds() + 1.0
        return min(_LOOK_SECONDS, left) if left > 0 else _LOOK_SECONDS

    def run(self, ending: threading.Event) -> None:
        """Check for as long as the process lives."""
        while not ending.wait(self.look(datetime.now(UTC))):
            pass


def watch(kit: Path, tell: Callable[[str], None]) -> None:
    """Watch a kit for as long as this process lives."""
    threading.Thread(target=KitWatch(kit, tell).run, args=(threading.Event(),), name="kit watch", daemon=True).start()


def begin(kit: Path, home: Path, role: Role) -> None:
    """Check a kit just before its program starts. Problems are printed here and, at a site, written to `node.log`.

    Args:
        kit: the kit.
        home: the node's or the aggregator's home; it remembers the kit for `secfed doctor`.
        role: "site" or "server".

    Raises:
        UserError: the kit cannot connect.
    """
    tell = _tell_site(home) if role == "site" else _say
    remember(home, kit)
    try:
        warnings = check_start(kit, role)[1]
    except UserError as error:
        if role == "site":
            OwnersLog(home)(f"the node was not started: {error}")
        raise
    for line in warnings:
        tell(line)


def _tell_site(home: Path) -> Callable[[str], None]:
    log = OwnersLog(home)

    def tell(line: str) -> None:
        log(line)
        _say(line)

    return tell


def _say(line: str) -> None:
    sys.stderr.write(f"secfed: {line}\n")
