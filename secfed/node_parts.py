"""What a node owns, and the training that it calls: what whoever starts a `secfed.node.Node` hands to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from crypto.identity import Identity
from crypto.randomness import NoiseSecret
from secfed.policy import Policy
from secfed.rounds.run_facts import EMBEDDED
from secfed.rounds.strategies import Layout, ModelState
from secfed.store import NodeStore

if TYPE_CHECKING:
    from dp.ledger import Ledger


class Trainer(Protocol):
    """The private training that a node calls; `secfed.training` has the real one."""

    @property
    def layout(self) -> Layout:
        """Names and shapes of the trained parameters."""
        ...

    def first_state(self) -> ModelState:
        """The first adapter, derived from the study; its moments are the chain's matter."""
        ...

    def contribute(
        self, state: ModelState, round_number: int, secret: NoiseSecret, progress: Callable[[int], None]
    ) -> NDArray[np.int64]:
        """Train from `state` for one round. The finished vector, with the noise in it, of shape (D,), as integers of
        at most the study's magnitude."""
        ...


@dataclass(frozen=True, slots=True)
class NodeParts:
    """What a node owns."""

    name: str
    identity: Identity
    policy: Policy
    ledger: Ledger
    store: NodeStore
    trainer: Trainer
    engine: str = EMBEDDED
    """What carries its messages, as it signs it (`secfed.rounds.run_facts`)."""
