"""When a node's uploads leave: what its owner is told where they leave as soon as they are ready.

Without a fixed moment the aggregator sees how long each round's training took, and that follows, if only by a little,
from who was drawn. Which moment to choose: more than a round ever takes here. Where rounds have run, the owner's own
log has the longest; twice that, in whole minutes. Where none has, a quarter of what an aggregator waits for training.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from secfed.files.figures import whole_minutes
from secfed.rounds.deadlines import Deadlines

OWNERS_LOG = "node.log"
TOOK_PART = "took part, "
"""In the owner's log, before the seconds that a round's longest answer took."""
TOOK = re.compile(rf"{TOOK_PART}(\d{{1,7}}\.\d+) s")
_TAIL_BYTES = 1 << 20


def hold_back(after: float, asked: float, pause: Callable[[float], None], tell_owner: Callable[[str], None]) -> None:
    """Wait for an upload's moment; tell the owner when it has passed already.

    Args:
        after: `pace.upload_after_seconds` of the node's policy; 0 to wait for nothing.
        asked: when the node was asked for the upload, by `time.monotonic`.
        pause: waits for so many seconds.
        tell_owner: shows a line to the owner.
    """
    left = asked + after - time.monotonic()
    if after and left < 0:
        tell_owner(
            f"this round's upload left {-left:.1f} s later than pace.upload_after_seconds = {after:g} says: others "
            "may see how long training took. Raise it in policy.toml"
        )
    elif left > 0:
        pause(left)


def suggested(home: Path) -> tuple[int, str]:
    """A value for `pace.upload_after_seconds`, in seconds, and how it was chosen.

    Args:
        home: the node's.
    """
    longest = _longest_answer(home / OWNERS_LOG)
    if longest is not None:
        return whole_minutes(2 * longest), f"twice the longest that a round has taken here, {longest:.1f} s"
    deadline = Deadlines().training_seconds
    return whole_minutes(deadline / 4), (
        f"a quarter of the {deadline:g} s that an aggregator waits for a round's training if it says nothing else; ask "
        "again once rounds have run here"
    )


def warning(home: Path, upload_after: float) -> tuple[str, str] | None:
    """What is wrong with a node's pace in a federation, and what to do; None where uploads are held back.

    Args:
        home: the node's.
        upload_after: `pace.upload_after_seconds` of its policy.
    """
    if upload_after:
        return None
    seconds, how = suggested(home)
    return (
        "uploads leave when they are ready, so that the aggregator sees how long each round's training took",
        f"Set upload_after_seconds = {seconds} under [pace] in policy.toml ({how}); the aggregator has to wait longer "
        "than that",
    )


def _longest_answer(log: Path) -> float | None:
    """The longest time that an answer took, in seconds, by the end of the owner's log; None where it tells of none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            text = file.read(_TAIL_BYTES).decode(errors="replace")
            return max((float(each) for each in TOOK.findall(text)), default=None)
    except OSError:
        return None
