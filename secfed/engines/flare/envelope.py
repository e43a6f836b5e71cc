"""Our bytes in FLARE's container, and nothing else of FLARE's.

A request carries the study's digest, so that bytes of two studies never meet, one byte string, and the sender's clock,
by which an owner is told that the node's is off; an answer carries the byte string alone. What is read from a container
is checked for exactly that, and for its size, before anybody looks inside. An answer without bytes is silence.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable

from crypto.kdf import DIGEST_BYTES

TOPIC = "secfed"
_STUDY, _DATA, _TIME = "study", "data", "time"
_TIME_MAX = 1 << 37
"""Seconds since 1970: a year that `datetime` still has."""


def request_of(study: bytes, data: bytes) -> Shareable:
    """A request about a study."""
    return Shareable({_STUDY: study, _DATA: data, _TIME: int(time.time())})


def answer_of(data: bytes) -> Shareable:
    """An answer; empty for silence."""
    return Shareable({_DATA: data})


def read_request(container: Any, study: bytes, most_bytes: int) -> bytes | None:
    """The bytes of a request about this study; None for anything else.

    Args:
        container: what FLARE handed over.
        study: the digest of the study that this process is for.
        most_bytes: a longer request is none.
    """
    if not isinstance(container, Shareable):
        return None
    named = container.get(_STUDY)
    if type(named) is not bytes or len(named) != DIGEST_BYTES or named != study:
        return None
    return _read(container, most_bytes)


def read_time(container: Any) -> datetime | None:
    """What the sender of a request says that the time is; nothing depends on it but a line to the owner."""
    said = container.get(_TIME) if isinstance(container, Shareable) else None
    if type(said) is not int or not 0 <= said < _TIME_MAX:
        return None
    return datetime.fromtimestamp(said, UTC)


def read_answer(container: Any, most_bytes: int) -> bytes | None:
    """The bytes of an answer; None for silence, for whatever went wrong on the way, and for anything else."""
    if not isinstance(container, Shareable) or container.get_return_code() != ReturnCode.OK:
        return None
    return _read(container, most_bytes)


def _read(container: Shareable, most_bytes: int) -> bytes | None:
    data = container.get(_DATA)
    return data if type(data) is bytes and 0 < len(data) <= most_bytes else None
