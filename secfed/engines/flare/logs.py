"""Limits FLARE's own logs as ours are limited (`secfed.bounded_log`): its log settings in a kit, and its audit log.

FLARE 2.9 writes four files of up to 220 MB for the program and again for every job, and an `audit.log` without a limit.
Our kits have one file, `log.txt`, for the program and for each job, and standard output.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

from nvflare.fuel.sec import audit

from secfed.bounded_log import LineStream, shape_of

_HANDLERS = "secfed.bounded_log"
_EVENT = re.compile(r"\[[ERTJS]:[^]]*\]")


def log_settings() -> dict[str, Any]:
    """FLARE's `log_config.json`, with our handlers."""
    formatter = {
        "()": "nvflare.fuel.utils.log_utils.BaseFormatter",
        "fmt": "%(asctime)s - %(name)s - %(levelname)s - %(fl_ctx)s - %(message)s",
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"text": formatter},
        "handlers": {
            "console": {"class": f"{_HANDLERS}.ConsoleLog", "formatter": "text"},
            "file": {"class": f"{_HANDLERS}.FileLog", "formatter": "text", "filename": "log.txt"},
        },
        "loggers": {"root": {"level": "INFO", "handlers": ["console", "file"]}},
    }


class BoundedAuditor(audit.Auditor):  # type: ignore[misc]
    """FLARE's auditor, writing to a file of limited size."""

    def __init__(self, audit_file_name: str) -> None:
        """
        Args:
            audit_file_name: the file.
        """
        self.audit_file = LineStream(Path(audit_file_name), lambda line: shape_of(_EVENT.sub("", line)))
        self._lock = threading.Lock()


def bound_audit() -> None:
    """Make FLARE use it in this process. Call this before FLARE creates its own."""
    audit.Auditor = BoundedAuditor
