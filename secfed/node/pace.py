"""When a node's uploads leave, and the warning to its owner if they leave as soon as they are ready.

Without a fixed delay, the aggregator sees how long each round's training took, and that depends a little on which
patients were drawn. The delay should exceed the longest round here. If rounds have run, the suggestion is twice the
longest one in the owner's log, in whole minutes; otherwise it is a quarter of the aggregator's default deadline for
training.
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
"""In the owner's log, this precedes the duration of a round's longest answer."""
TOOK = re.compile(rf"{TOOK_PART}(\d{{1,7}}\.\d+) s")
_TAIL_BYTES = 1 << 20


def hold_back(after: float, asked: float, pause: Callable[[float], None], tell_owner: Callable[[str], None]) -> None:
    """Wait until an upload may leave; tell the owner if that moment has already passed.

    Args:
        after: `pace.upload_after_seconds` of the node's policy; 0 means no waiting.
        asked: when the node was asked for the upload, by `time.monotonic`.
        pause: sleeps for a number of seconds.
        tell_owner: shows a line to the owner.
    """
    left = asked + after - time.monotonic()
    if after and left < 0:
        tell_owner(
            f"this round's upload left {-left:.1f} s after the delay pace.upload_after_seconds = {after:g}: others "
            "may see how long training took. Raise the delay in policy.toml"
        )
    elif left > 0:
        pause(left)


def suggested(home: Path) -> tuple[int, str]:
    """A suggested `pace.upload_after_seconds`, in seconds, and how it was chosen.

    Args:
        home: the node's home.
    """
    longest = _longest_answer(home / OWNERS_LOG)
    if longest is not None:
        return whole_minutes(2 * longest), f"twice the longest round so far here, {longest:.1f} s"
    deadline = Deadlines().training_seconds
    return whole_minutes(deadline / 4), (
        f"a quarter of an aggregator's default deadline for training, {deadline:g} s; check again once rounds have "
        "run here"
    )


def warning(home: Path, upload_after: float) -> tuple[str, str] | None:
    """The problem with a node's pace in a federation, and the fix; None if uploads are held back.

    Args:
        home: the node's home. upload_after: `pace.upload_after_seconds` of its policy.
    """
    if upload_after:
        return None
    seconds, how = suggested(home)
    return (
        "uploads leave as soon as they are ready, so the aggregator sees how long each round's training took",
        f"Set upload_after_seconds = {seconds} under [pace] in policy.toml ({how}); the aggregator's deadline must be "
        "longer",
    )


def _longest_answer(log: Path) -> float | None:
    """The longest answer in the last part of the owner's log, in seconds; None if it records none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            text = file.read(_TAIL_BYTES).decode(errors="replace")
            return max((float(each) for each in TOOK.findall(text)), default=None)
    except OSError:
        return None
