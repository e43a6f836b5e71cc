"""What the tests of the node's state machine share: a session of five, and how a refusal looks."""

from __future__ import annotations

import numpy as np
import pytest

from protocols.client import Client
from protocols.errors import (
    LocalError,
    ProtocolError,
    RemoteError,
)
from protocols.session import SessionConfig
from protocols.steps import State
from tests.protocols.rounds import configure
from tests.protocols.stages import NEW_STATE, TO_NODE, Walk

NODE = 1
STAGES = list(TO_NODE)


def five() -> SessionConfig:
    """N = 5, c = 1, f = 1: quorum 4, one node may be missing at any stage."""
    return configure(5, dropouts=1, colluders=1)


def refused(walk: Walk, data: bytes, error: type[ProtocolError], field: str | None = None) -> RemoteError:
    """The client refuses the bytes, and then it is over for good: nothing sent, no secret left, no second try."""
    client = walk.clients[NODE]
    with pytest.raises(error) as caught:
        client.receive(data)
    assert_over(client, walk.outgoing[NODE])
    if field is not None:
        assert isinstance(caught.value, RemoteError)
        assert caught.value.field == field
    return caught.value  # type: ignore[return-value]


def assert_over(client: Client, honest: bytes) -> None:
    assert client.state is State.FAILED
    assert client._secrets.wiped
    assert not client._received
    assert not client._pair_seeds
    assert not client.checksum_contributions
    with pytest.raises(LocalError, match="failed"):
        client.receive(honest)
    with pytest.raises(LocalError):
        client.submit(np.zeros(7, dtype=np.int64))
    with pytest.raises(LocalError):
        client.close(NEW_STATE)
