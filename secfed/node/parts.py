"""The parts that a `secfed.node.node.Node` is built from: what it owns, and the training that it calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crypto.identity import Identity
from secfed.models.trainer import Trainer
from secfed.node.policy import Policy
from secfed.node.store import NodeStore
from secfed.rounds.run_facts import EMBEDDED

if TYPE_CHECKING:
    from dp.ledger import Ledger


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
    """The engine's name, as the node signs it (`secfed.rounds.run_facts`)."""
