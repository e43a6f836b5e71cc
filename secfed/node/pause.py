"""A node's owner pauses a study, and resumes it: kept in the node's memory, so that a restart changes nothing.

For a study that has begun this is what withdrawing is for one that has not, and it is not for good. The spend stays,
and the other sites go on without this one as long as the study's cohort allows it.
"""

from __future__ import annotations

from datetime import datetime

from secfed.errors import UserError
from secfed.node.home import Home
from secfed.node.sites import LEDGER_FILE, STORE_FILE
from secfed.node.store import open_store


def pause(home: Home, digest: bytes, now: datetime) -> str:
    """Keep the node out of a study's rounds from the next contribution on. Gives since when it is out.

    Raises:
        UserError: the study is not approved here, or over; or it cannot be written down.
    """
    home.stored(digest)
    _check_goes_on(home, digest)
    with open_store(home.path / STORE_FILE) as store:
        return store.pause(digest, now.isoformat(timespec="seconds"))


def resume(home: Home, digest: bytes) -> bool:
    """Let the node take part again. Gives whether it was paused.

    Raises:
        UserError: the study is not approved here, or it cannot be written down.
    """
    home.stored(digest)
    with open_store(home.path / STORE_FILE) as store:
        return store.resume(digest)


def paused_since(home: Home, digest: bytes) -> str:
    """Since when a study is paused; empty if it is not, or if that cannot be read."""
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
            f"study {digest.hex()[:16]} is over here, or was withdrawn: there is nothing to pause",
            "Look at `secfed node status`",
        )
