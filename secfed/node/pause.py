"""Pausing and resuming a study by the node's owner. The pause is stored on disk, so it survives a restart.

A study that has not begun can be withdrawn for good; one that has begun can be paused and resumed. What was spent stays
spent. The other sites continue without this one as long as the study's cohort rules allow it.
"""

from __future__ import annotations

from datetime import datetime

from secfed.errors import UserError
from secfed.node.home import Home
from secfed.node.sites import LEDGER_FILE, STORE_FILE
from secfed.node.store import open_store


def pause(home: Home, digest: bytes, now: datetime) -> str:
    """Keep the node out of a study's rounds, starting with its next contribution. Returns when the pause began.

    Raises:
        UserError: the study is not approved here or is over, or the pause cannot be written.
    """
    home.stored(digest)
    _check_goes_on(home, digest)
    with open_store(home.path / STORE_FILE) as store:
        return store.pause(digest, now.isoformat(timespec="seconds"))


def resume(home: Home, digest: bytes) -> bool:
    """Let the node take part again. Returns whether it was paused.

    Raises:
        UserError: the study is not approved here, or the change cannot be written.
    """
    home.stored(digest)
    with open_store(home.path / STORE_FILE) as store:
        return store.resume(digest)


def paused_since(home: Home, digest: bytes) -> str:
    """When a study was paused; empty if it is not paused, or if that cannot be read."""
    if not (home.path / STORE_FILE).exists():
        return ""
    try:
        with open_store(home.path / STORE_FILE) as store:
            return store.paused(digest)
    except UserError:
        return ""


def _check_goes_on(home: Home, digest: bytes) -> None:
    if not (home.path / LEDGER_FILE).exists():
        return
    with home.open_ledger() as ledger:
        over = ledger.is_closed(digest) or ledger.reservation(digest) is None
    if over:
        raise UserError(
            f"study {digest.hex()[:16]} is over or was withdrawn here, so it cannot be paused",
            "Run `secfed node status`",
        )
