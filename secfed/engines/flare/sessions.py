"""Lets a site whose client restarted continue in its jobs, under its new session with the server.

FLARE 2.9 gives a client a token when it connects, and a job's process learns its sites' tokens when it starts. A site
that reconnects, after a kill or a restart, has a new token. The job's process does not know it and refuses its task
requests twice a second, with two lines in the site's log each time. So the server replaces the old session by the new
one, and a job's process that meets an unknown token asks the server again. A token is still issued only for a
certificate, and the server alone decides which tokens are valid.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nvflare.apis.client import Client
from nvflare.private.fed.server.server_command_agent import ServerCommandAgent

_ASKS_SECONDS = 5.0
"""Least seconds between two requests of a job's process to the server, whatever tokens arrive."""
_MARK = "_secfed_follows"


def with_new_sessions(participants: Mapping[str, Client], connected: Iterable[Client]) -> dict[str, Client] | None:
    """A job's sites by token, each under its current token.

    Args:
        participants: the sites by token, as the job knows them.
        connected: the sites that are connected now.

    Returns:
        None if nothing has changed.
    """
    now = {client.name: client for client in connected}
    followed = {}
    for token, client in participants.items():
        present = now.get(client.name, client)
        followed[token if present is client else present.token] = present
    return followed if followed.keys() != participants.keys() else None


class _Asks:
    """Lets one request through per interval."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next = clock()
        self._lock = threading.Lock()

    def may(self) -> bool:
        with self._lock:
            now = self._clock()
            if now < self._next:
                return False
            self._next = now + _ASKS_SECONDS
            return True


def follow_sessions() -> None:
    """Make this process, if it is a job's process at the server, ask for the sites again when it meets an unknown
    token. Call this before it listens.
    """
    if getattr(ServerCommandAgent, _MARK, False):
        return
    known, asks = ServerCommandAgent._get_client, _Asks()

    def get_client(agent: Any, token: str) -> Client | None:
        client = known(agent, token)
        if client is None and asks.may():
            engine = agent.engine
            job = getattr(getattr(engine, "args", None), "job_id", None)
            clients = engine._retrieve_clients_data(job) if job else None
            if clients:
                engine.client_manager.set_clients(clients)
                client = known(agent, token)
        return client

    ServerCommandAgent._get_client = get_client
    setattr(ServerCommandAgent, _MARK, True)
