"""Ends a server that runs but no longer works, so that the service restarts it.

An exception permanently ends FLARE's threads that start and finish jobs; a full disk causes one at each status they
write. And a server that does not get its port reports nothing and can never be reached. From outside, both look
healthy.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from secfed.engines.flare.ports import ports_of

_LOOKS_SECONDS = 5.0
_LISTENS_WITHIN_SECONDS = 60.0
_THREADS = ("_start_job_runner", "_job_complete_process")
"""Python also names a thread after its function."""
_FAILURE = 1


def watch_server(engine: Any, logger: logging.Logger) -> None:
    """Check regularly, on a thread, and end this process if it no longer works."""

    def watch() -> None:
        started, seen = time.monotonic(), set[str]()
        while not engine.job_runner.ask_to_stop:
            time.sleep(_LOOKS_SECONDS)
            reason = lost(seen)
            if not reason and time.monotonic() - started > _LISTENS_WITHIN_SECONDS:
                reason = deaf(Path(engine.args.workspace))
            if reason and not engine.job_runner.ask_to_stop:
                logger.error(f"this server ends so that its service restarts it: {reason}")
                os._exit(_FAILURE)  # FLARE's own shutdown would wait for the threads that have ended

    threading.Thread(target=watch, name="secfed watch", daemon=True).start()


def lost(seen: set[str]) -> str:
    """Which of FLARE's threads has ended; empty if none has.

    Args:
        seen: the threads seen at earlier checks; updated here.
    """
    alive = {each for each in _THREADS for thread in threading.enumerate() if each in thread.name}
    gone = seen - alive
    seen |= alive
    return f"its thread {min(gone)} has ended" if gone else ""


def deaf(kit: Path) -> str:
    """Which port of its kit this process does not listen on; empty if it listens, or if that cannot be determined."""
    try:
        ports = {port for _, port in ports_of(kit)}
        listening = {
            each.laddr.port for each in psutil.Process().net_connections("tcp") if each.status == psutil.CONN_LISTEN
        }
    except (OSError, ValueError, KeyError, psutil.Error):
        return ""
    missing = ports - listening
    return f"it does not listen on port {min(missing)}" if missing else ""
