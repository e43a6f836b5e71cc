"""To whom the server has a connection open at this moment: `connected.json` in the aggregator's folder. No nvflare.

FLARE keeps a site in its list for minutes after it heard from it last. Its transport knows at once when a process that
was killed is gone, since its machine ends the connection. The server writes that down for `secfed federation status`; a
machine that lost its power or its network shows later, when it has not been heard from.
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
    """Writes them down whenever they are others. Never raises OSError."""

    def __init__(self, aggregator: Path) -> None:
        self._path = aggregator / FILE
        self._written: frozenset[str] | None = None

    def put(self, sites: frozenset[str]) -> None:
        """These sites are connected."""
        if sites != self._written:
            with suppress(OSError):
                write_whole(self._path, json.dumps(sorted(sites)).encode(), READABLE)
                self._written = sites


def read_connections(aggregator: Path) -> frozenset[str] | None:
    """The sites that the server has a connection open to; None where nothing says so."""
    try:
        with (aggregator / FILE).open("rb") as file:
            found = json.loads(file.read(_BYTES_MAX))
    except (OSError, ValueError):
        return None
    return frozenset(map(str, found)) if isinstance(found, list) else None
