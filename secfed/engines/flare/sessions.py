"""A site whose client was started anew goes on in the jobs that it was in, under its new session with the server.

FLARE 2.9 gives a client a token when it connects, and a job's process learns the tokens of its sites when it starts. A
site that connects again, after a kill or a restart, has another token: the job's process knows no such site, refuses
its process's question for tasks twice a second, and each refusal is two lines in the site's log. So the server puts the
new session in the place of the old one, and a job's process that meets a token it does not know asks the server anew.
A token is given for a certificate; the server alone says which are valid, now as before.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nvflare.apis.client import Client
from nvflare.private.fed.server.server_command_agent import ServerCommandAgent

_ASKS_SECONDS = 5.0
"""Between two questions of a job's process to the server, whatever tokens come."""
_MARK = "_secfed_follows"


def with_new_sessions(participants: Mapping[str, Client], connected: Iterable[Client]) -> dict[str, Client] | None:
    """A job's sites by token, each under its present one.

    Args:
        participants: the same as the job has them.
        connected: the sites that are connected now.

    Returns:
        None where nothing has changed.
    """
    now = {client.name: client for client in connected}
    followed = {}
    for token, client in participants.items():
        present = now.get(client.name, client)
        followed[token if present is client else present.token] = present
    return followed if followed.keys() != participants.keys() else None


class _Asks:
    """Lets one question through in a while."""

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
    """Have this process, if it is a job's at the server, ask for the sites again when it meets a token it does not
    know. To be called before it listens."""
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
