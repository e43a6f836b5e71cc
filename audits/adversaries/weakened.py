"""Nodes without one rule. Refusals are lines, which `audits.simulator.removal` removes; a rule here is not a single
line.

Such a rule is a derivation, a threshold, or a secret that is wiped or newly drawn: where it holds, an attack fails
although no node refuses any more. Each weakening removes one rule and keeps every other, above all those that depend on
the same number: t is the number of signatures *and* the number of shares that give a secret, and nodes that need fewer
shares still count signatures. The last few remove a rule of the SPEC with all lines that enforce it, for
`audits.exploration` and for tests that look for a broken promise. Only for audits and tests.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any
from unittest.mock import patch

from audits.simulator.world import FreshEntropy
from crypto.identity import PublicIdentity
from crypto.kdf import digest
from dp.ledger import Ledger
from dp.ledger_copy import read_copy
from protocols import client, derivations, sharing
from protocols.checksum import ChecksumKey
from protocols.client import Client
from protocols.masking import MaskedSum
from protocols.messages import Opening
from protocols.parameters import CohortRules, RoundShape
from protocols.receipts import Receipt
from protocols.session import Context
from protocols.steps import State, received
from protocols.wire import encode
from secfed.aggregator import handover
from secfed.node import books, locks, restored
from secfed.node.node import Node
from secfed.node.parts import NodeParts
from secfed.node.session import Session
from secfed.node.store import NodeStore
from secfed.rounds.chain import Chain
from secfed.rounds.channel import RoundOpening


class Weakening(AbstractContextManager[None]):
    """A context in which nodes lack one rule. Enter it once."""

    def __init__(self, rule: str, *patches: AbstractContextManager[object]) -> None:
        """
        Args:
            rule: the rule that nodes otherwise follow, in one line.
            patches: these remove it.
        """
        self.rule = rule
        self._patches = patches
        self._active = ExitStack()

    def __enter__(self) -> None:
        for each in self._patches:
            self._active.enter_context(each)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._active.close()


def quorum_one_too_low() -> Weakening:
    """t = floor((N + c) / 2): two quorums need no longer share an honest node."""
    lower = patch.object(CohortRules, "quorum", lambda rules, size: (rules.roster_size + rules.colluders) // 2)
    return Weakening("t is more than half of N + c, so that two quorums share an honest node", lower)


def quorum_not_from_the_roster() -> Weakening:
    """t = n - f, without the roster's majority."""
    without = patch.object(CohortRules, "_majority", lambda rules: 0)
    return Weakening("t follows from the roster and not only from the cohort shown", without)


def sharing_threshold(most: int) -> Weakening:
    """This many shares give a secret; signatures are counted as before."""
    return Weakening("fewer than t shares give nothing of a secret", _shared_among(lambda quorum: min(most, quorum)))


def sharing_threshold_one_too_low() -> Weakening:
    """t - 1 shares give a secret; signatures are counted as before."""
    return Weakening("fewer than t shares give nothing of a secret", _shared_among(lambda quorum: quorum - 1))


def sessions_go_back() -> Weakening:
    """A session accepts another set of survivors after Unmask, as if it had answered none."""
    honest = Client._dispatch

    def dispatch(node: Client, data: bytes) -> Any:
        if node.state is State.UNMASKED:
            node.state = State.MASKED
            node._answers.clear()
        return honest(node, data)

    return Weakening("a session never goes back to a stage", patch.object(Client, "_dispatch", dispatch))


def secrets_not_wiped() -> Weakening:
    """A session keeps its secrets to the end."""
    return Weakening("a session's secrets are gone with its Unmask", patch.object(Client, "_wipe", _nothing))


def no_self_mask() -> Weakening:
    """Only pair masks cover inputs, as in the first sketch of Bonawitz et al. (2017, section 4)."""
    rule = "the self mask stays on: shares of it are released for survivors alone"
    return Weakening(rule, patch.object(MaskedSum, "add_self_mask", _nothing))


def masks_not_bound_to_the_view() -> Weakening:
    """Masks depend only on the session, not on the U2 that a node saw: version 1 of the protocol."""
    unbound = patch.object(derivations, "view_of", lambda session, sharers: session)
    return Weakening("masks and checksum key are derived under the U2 that a node was shown", unbound)


def context_without(field: str) -> Weakening:
    """The context, and with it every key of the session, does not cover this field."""
    honest = Context.digest

    def reduced(context: Context) -> bytes:
        fields = {name: getattr(context, name) for name in Context.__dataclass_fields__}
        fields[field] = 0 if isinstance(fields[field], int) else bytes(32)
        return honest(Context(**fields))

    rule = f"the context, and with it every key, covers the {field.replace('_', ' ')}"
    return Weakening(rule, patch.object(Context, "digest", reduced))


def shape_taken_from_the_header() -> Weakening:
    """A node believes the ring and the length that the aggregator announces."""

    def advertise(node: Client, opening: Opening) -> Any:
        object.__setattr__(node.config.context, "shape", RoundShape(opening.dimension, opening.ring_bits))
        node._context = node.config.context.digest()
        return Client._advertise(node, opening)

    believing = patch.dict(client.STEPS, {State.NEW: received(Opening, advertise, State.ADVERTISED)})
    return Weakening("length and ring are derived and never taken from the header", believing)


def entropy_comes_again() -> Weakening:
    """A node that starts again draws the same secrets: a restored virtual machine, or a root derived from the study."""
    again = patch.object(FreshEntropy, "next_draw", lambda source: 0)
    return Weakening("a session that starts again draws fresh secrets", again)


def checksum_without_constant() -> Weakening:
    """The checksum is linear and not affine: k_0 = 0."""
    honest = ChecksumKey.tag
    linear = patch.object(ChecksumKey, "tag", lambda key, vector, count=1: honest(key, vector, 0))
    return Weakening("the checksum has a constant term", linear)


def openings_past_the_lock() -> Weakening:
    """A node that has signed a round joins another one when asked, ignoring what it signed."""
    honest = Node._open_round

    def open_round(node: Node, message: RoundOpening) -> bytes:
        with patch.object(locks, "unfinished", _nothing):
            return honest(node, message)

    rule = "a node that signed a round offers it, and joins no other"
    return Weakening(rule, patch.object(Node, "_open_round", open_round))


def receipts_digested_with_signatures() -> Weakening:
    """A receipt's digest covers its signatures, too."""
    signed = patch.object(Receipt, "digest", lambda receipt: digest("receipt", encode(receipt)))
    return Weakening("a receipt's digest is its statement's: signatures are not in it", signed)


def restores_not_announced() -> Weakening:
    """The owner of a restored node starts it without reporting the restore."""
    return Weakening("the owner of a restored node says so", patch.object(NodeStore, "raise_floor", _nothing))


def forgotten_spend_not_committed() -> Weakening:
    """A node that adopts a receipt of a round that its ledger does not contain leaves the ledger unchanged."""
    honest = restored.check_spend

    def check_spend(parts: NodeParts, chain: Chain, number: int) -> None:
        with patch.object(Ledger, "commit", _nothing):
            honest(parts, chain, number)

    rule = "a round that the ledger has forgotten is committed anew"
    return Weakening(rule, patch.object(restored, "check_spend", check_spend))


def unchecked_signatures(*labels: str) -> Weakening:
    """Signatures with these labels count as valid; without labels, all do."""
    honest = PublicIdentity.verifies

    def verifies(identity: PublicIdentity, signature: bytes, label: str, *parts: bytes) -> bool:
        return not labels or label in labels or honest(identity, signature, label, *parts)

    return Weakening("signatures are verified", patch.object(PublicIdentity, "verifies", verifies))


def unchecked_sum() -> Weakening:
    """A published sum is accepted with any tag."""
    return Weakening("a sum is checked against its tag", patch.object(Client, "_check_sum", _nothing))


def over_when_asked() -> Weakening:
    """A node considers its study over when asked for its ledger."""

    def hand_over(node: Node) -> Any:
        node.end_named = node.chain.head
        return books.hand_over(node)

    rule = "a study is over when a closing has said so since the node joined a round"
    return Weakening(rule, patch("secfed.node.answers.hand_over", hand_over))


def over_wherever_it_is_said() -> Weakening:
    """A node considers its study over at any receipt that a closing names."""

    def hand_over(node: Node) -> Any:
        if node.end_named is not None:
            node.end_named = node.chain.head
        return books.hand_over(node)

    rule = "a study is over where the closing names the receipt at the end of the node's chain"
    return Weakening(rule, patch("secfed.node.answers.hand_over", hand_over))


def copies_of_any_study() -> Weakening:
    """A ledger's copy counts for the study in its first line, even if another study was requested."""

    def read(data: bytes, study: bytes, check: Any) -> Any:
        return read_copy(data, bytes.fromhex(json.loads(data.splitlines()[0])["study"]), check)

    return Weakening("a copy says of which study it is, and is read as that", patch.object(handover, "read_copy", read))


def no_lock() -> Weakening:
    """A node forgets what it signed until it has a receipt."""
    return Weakening("a node keeps to what it signed", patch.object(locks, "unfinished", _nothing))


def floor_forgotten() -> Weakening:
    """A node does not store on disk which rounds it has joined, but still counts its attempts."""
    honest = NodeStore.join

    def join(store: NodeStore, study: bytes, number: int, state: bytes) -> None:
        store._database.execute("DELETE FROM floor WHERE study = ?", (study,))
        honest(store, study, number, state)

    forgets = patch.object(NodeStore, "floor", lambda store, study: 0), patch.object(NodeStore, "join", join)
    return Weakening("round numbers only rise", *forgets)


def sessions_outlive_adoption() -> Weakening:
    """A node's open session continues when the node adopts a receipt."""
    outlives = patch.object(Session, "end_unless_on", _nothing)
    return Weakening("a session ends when a receipt is adopted", outlives)


def signers_not_counted(quorum: int) -> Weakening:
    """Every receipt counts as having enough signatures."""
    enough = patch("protocols.receipts.count_signers", lambda statement, signatures, roster: quorum)
    return Weakening("a receipt has t signatures", enough)


def echoes_not_counted(signers: int) -> Weakening:
    """A node co-signs anything, as if enough survivors had signed it."""
    enough = patch("secfed.node.echo.count_signers", lambda statement, signatures, roster: signers)
    return Weakening("an echo needs more than c signatures", enough)


def sums_not_held_against_receipts() -> Weakening:
    """A node that catches up computes its state from any sum that comes with a valid receipt."""
    believing = patch.object(
        Chain, "_state_after", lambda chain, statement, packed: chain.next_state(packed, statement.survivors)
    )
    return Weakening("a sum is the one that the receipt covers", believing)


def _nothing(*_: Any, **__: Any) -> None:
    """Replaces a method, and does nothing."""


def _shared_among(threshold: Callable[[int], int]) -> AbstractContextManager[object]:
    """Nodes that deal shares with another threshold than t."""
    honest = sharing.deal

    def deal(secrets: Any, identity: Any, index: int, session: bytes, quorum: int, cohort: Any) -> sharing.Dealing:
        return honest(secrets, identity, index, session, threshold(quorum), cohort)

    return patch.object(sharing, "deal", deal)
