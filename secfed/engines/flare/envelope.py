"""Carries our bytes in FLARE's container and uses nothing else of FLARE's.

A request carries the study's digest, so that bytes of two studies never mix; one byte string; and the sender's clock,
for the warning about clocks that differ. An answer carries only the byte string. A received container is checked for
exactly this content, and for its size, before its bytes are parsed. An answer without bytes means silence.
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
"""Seconds since 1970: within the years that `datetime` supports."""


def request_of(study: bytes, data: bytes) -> Shareable:
    """Make a request about a study."""
    return Shareable({_STUDY: study, _DATA: data, _TIME: int(time.time())})


def answer_of(data: bytes) -> Shareable:
    """Make an answer; empty bytes mean silence."""
    return Shareable({_DATA: data})


def read_request(container: Any, study: bytes, most_bytes: int) -> bytes | None:
    """The bytes of a request about this study; None for anything else.

    Args:
        container: from FLARE.
        study: the digest of this process's study.
        most_bytes: longer requests are invalid.
    """
    if not isinstance(container, Shareable):
        return None
    named = container.get(_STUDY)
    if type(named) is not bytes or len(named) != DIGEST_BYTES or named != study:
        return None
    return _read(container, most_bytes)


def read_time(container: Any) -> datetime | None:
    """The sender's clock, as the request states it. Used only for a line to the owner."""
    said = container.get(_TIME) if isinstance(container, Shareable) else None
    if type(said) is not int or not 0 <= said < _TIME_MAX:
        return None
    return datetime.fromtimestamp(said, UTC)


def read_answer(container: Any, most_bytes: int) -> bytes | None:
    """The bytes of an answer; None for silence, transport errors and anything malformed."""
    if not isinstance(container, Shareable) or container.get_return_code() != ReturnCode.OK:
        return None
    return _read(container, most_bytes)


def _read(container: Shareable, most_bytes: int) -> bytes | None:
    data = container.get(_DATA)
    return data if type(data) is bytes and 0 < len(data) <= most_bytes else None
