"""The sites that the server has an open connection to: `connected.json` in the aggregator's folder. No nvflare.

FLARE lists a site for minutes after its last message. Its transport knows at once when a site's process was killed,
because that machine closes the connection. The server writes this down for `secfed federation status`. A machine that
lost power or its network is noticed later, by its silence.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from secfed.files.whole import READABLE, write_whole

FILE = "connected.json"
_BYTES_MAX = 1 << 20


def open_connections(engine: Any) -> frozenset[str]:
    """The sites that FLARE's server engine has a connection open to."""
    agents = engine.server.cell.core_cell.agents
    return frozenset(client.name for client in engine.get_clients() if client.get_fqcn() in agents)


class ConnectionsFile:
    """Writes the connected sites to the file whenever they change. Never raises OSError."""

    def __init__(self, aggregator: Path) -> None:
        self._path = aggregator / FILE
        self._written: frozenset[str] | None = None

    def put(self, sites: frozenset[str]) -> None:
        """Record that these sites are connected."""
        if sites != self._written:
            with suppress(OSError):
                write_whole(self._path, json.dumps(sorted(sites)).encode(), READABLE)
                self._written = sites


def read_connections(aggregator: Path) -> frozenset[str] | None:
    """The sites that the server has an open connection to; None if no file says so."""
    try:
        with (aggregator / FILE).open("rb") as file:
            found = json.loads(file.read(_BYTES_MAX))
    except (OSError, ValueError):
        return None
    return frozenset(map(str, found)) if isinstance(found, list) else None
