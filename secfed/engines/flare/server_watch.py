"""A server that lives on without doing its work ends instead, so that the service starts it again.

FLARE's threads that start jobs and bring them to their end are lost for good to an exception, as a full disk raises one
at each status they write; and a server that does not get its port says nothing and waits for nobody. From outside both
look well.
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
"""Python names a thread by its function, too."""
_FAILURE = 1


def watch_server(engine: Any, logger: logging.Logger) -> None:
    """Look now and then, on a thread, and end this process where it does not do its work."""

    def watch() -> None:
        started, seen = time.monotonic(), set[str]()
        while not engine.job_runner.ask_to_stop:
            time.sleep(_LOOKS_SECONDS)
            reason = lost(seen)
            if not reason and time.monotonic() - started > _LISTENS_WITHIN_SECONDS:
                reason = deaf(Path(engine.args.workspace))
            if reason and not engine.job_runner.ask_to_stop:
                logger.error(f"this server ends, to be started again: {reason}")
                os._exit(_FAILURE)  # FLARE's own way out waits for the very threads that are gone

    threading.Thread(target=watch, name="secfed watch", daemon=True).start()


def lost(seen: set[str]) -> str:
    """Which of FLARE's threads was there once and is no longer; empty where none is.

    Args:
        seen: those that were there at earlier looks; it is added to.
    """
    alive = {each for each in _THREADS for thread in threading.enumerate() if each in thread.name}
    gone = seen - alive
    seen |= alive
    return f"its thread {min(gone)} has ended" if gone else ""


def deaf(kit: Path) -> str:
    """Which port of its kit this process does not listen on; empty where it listens, and where that cannot be seen."""
    try:
        ports = {port for _, port in ports_of(kit)}
        listening = {
            each.laddr.port for each in psutil.Process().net_connections("tcp") if each.status == psutil.CONN_LISTEN
        }
    except (OSError, ValueError, KeyError, psutil.Error):
        return ""
    missing = ports - listening
    return f"it does not listen on port {min(missing)}" if missing else ""
