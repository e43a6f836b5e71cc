"""The clock of single processes, set wrong: `libfaketime` under them, which Debian packages as `faketime`.

What waits, waits by the monotonic clock. That one is left right, as on a machine whose date is wrong. libfaketime
0.9.10 then breaks `time.sleep` (EINVAL), so there it waits in another way.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

_PLACES = ("usr/lib/*/faketime", "usr/lib*/faketime", "usr/local/lib/faketime")
_LIBRARY = next((str(path) for each in _PLACES for path in Path("/").glob(f"{each}/libfaketime.so.1")), None)
NEEDS_FAKETIME = pytest.mark.skipif(_LIBRARY is None, reason="needs libfaketime: the package `faketime` in Debian")


_SLEEPING = """
import threading, time
time.sleep = lambda seconds: threading.Event().wait(seconds) and None
"""


def sleeping(folder: Path) -> Path:
    """A hook (`tests.flare.Processes.hooks`) for processes whose clock is off."""
    folder.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(_SLEEPING)
    return folder


@contextmanager
def clock_off_by(offset: str) -> Iterator[None]:
    """Processes that are started meanwhile have a clock that is this much off, as in "+1h" or "-24h"."""
    with _environment(
        {"LD_PRELOAD": str(_LIBRARY), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}
    ):
        yield


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
