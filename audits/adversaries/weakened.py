"""Nodes with one check or rule taken out: the proof that an attack is stopped by that and by nothing else.

Every function here gives a context manager that replaces one function of the nodes' code while it is active. For
audits and tests alone.
"""

from __future__ import annotations

import io
from contextlib import AbstractContextManager, ExitStack
from typing import Any
from unittest.mock import patch

import cbor2

from audits.simulator import FreshEntropy
from crypto.identity import PublicIdentity
from crypto.kdf import digest
from dp.ledger import Ledger
from protocols import client, derivations, encoding, sharing
from protocols.checksum import ChecksumKey
from protocols.client import Client, State
from protocols.masking import MaskedSum
from protocols.messages import Agreement, Opening
from protocols.parameters import CohortRules, RoundShape
from protocols.receipts import Receipt
from protocols.session import Context, check_cohort
from protocols.wire import NUMBER_MAX, encode
from secfed.chain import Chain
from secfed.channel import RoundOpening
from secfed.node import Node
from secfed.store import NodeStore

Weakening = AbstractContextManager[object]


def quorum_one_too_low() -> Weakening:
    """t = floor((N + c) / 2): two quorums need not share an honest node any more."""
    return patch.object(CohortRules, "quorum", lambda rules, size: (rules.roster_size + rules.colluders) // 2)


def quorum_of(threshold: int) -> Weakening:
    """A quorum of so many, whatever the roster."""
    return patch.object(CohortRules, "quorum", lambda rules, size: threshold)


def quorum_not_from_the_roster() -> Weakening:
    """t = n - f: the roster's majority is left out."""
    return patch.object(CohortRules, "_majority", lambda rules: 0)


def no_minima() -> Weakening:
    """The size of the cohort is not looked at, at any stage."""
    return patch.object(CohortRules, "check_stage", lambda rules, name, size, cohort_size: None)


def unchecked_signatures(*labels: str) -> Weakening:
    """Signatures with these labels are taken for good; with no label, all are."""
    honest = PublicIdentity.verifies

    def verifies(identity: PublicIdentity, signature: bytes, label: str, *parts: bytes) -> bool:
        return not labels or label in labels or honest(identity, signature, label, *parts)

    return patch.object(PublicIdentity, "verifies", verifies)


def sessions_answer_again() -> Weakening:
    """A session keeps its secrets after Unmask and takes another set of survivors, as if nothing had been released."""
    honest = Client._dispatch

    def dispatch(node: Client, data: bytes) -> Any:
        if node.state is State.UNMASKED:
            node.state = State.MASKED
            node._answers.clear()
        return honest(node, data)

    weakening = ExitStack()
    weakening.enter_context(patch.object(Client, "_wipe", lambda node: None))
    weakening.enter_context(patch.object(Client, "_dispatch", dispatch))
    return weakening


def secrets_not_wiped() -> Weakening:
    """A session keeps its secrets to the end."""
    return patch.object(Client, "_wipe", lambda node: None)


def no_self_mask() -> Weakening:
    """Inputs are covered by pair masks alone, as in the first sketch of Bonawitz et al. (2017, section 4)."""
    return patch.object(MaskedSum, "add_self_mask", lambda running, seed, owner, remove=False: None)


def masks_not_bound_to_the_view() -> Weakening:
    """Masks follow from the session alone, whatever U2 a node was shown: version 1 of the protocol."""
    return patch.object(derivations, "view_of", lambda session, sharers: session)


def signatures_not_counted() -> Weakening:
    """Unmask takes any number of signatures."""

    def unmask(node: Client, message: Agreement) -> Any:
        node._quorum = 0
        return Client._unmask(node, message)

    return patch.dict(client._EXPECTS, {State.AGREED: (Agreement, unmask, State.UNMASKED)})


def context_without(field: str) -> Weakening:
    """The context, and with it every key of the session, does not cover this field."""
    honest = Context.digest

    def reduced(context: Context) -> bytes:
        fields = {name: getattr(context, name) for name in Context.__dataclass_fields__}
        fields[field] = 0 if isinstance(fields[field], int) else bytes(32)
        return honest(Context(**fields))

    return patch.object(Context, "digest", reduced)


def shape_taken_from_the_header() -> Weakening:
    """A node believes the ring and the length that the aggregator announces."""

    def advertise(node: Client, opening: Opening) -> Any:
        object.__setattr__(node.config.context, "shape", RoundShape(opening.dimension, opening.ring_bits))
        node._context = node.config.context.digest()
        return Client._advertise(node, opening)

    return patch.dict(client._EXPECTS, {State.NEW: (Opening, advertise, State.ADVERTISED)})


def elements_of_any_size() -> Weakening:
    """A node's own input is not held against the certified magnitude."""
    honest = encoding.to_ring
    return patch.object(encoding, "to_ring", lambda values, shape, magnitude: honest(values, shape, 1 << 62))


def ledger_numbers_forgotten() -> Weakening:
    """Nodes do not remember their peers' ledger numbers."""
    honest = check_cohort
    return patch("protocols.client.check_cohort", lambda config, cohort, seen: honest(config, cohort, {}))


def unchecked_pair_seeds() -> Weakening:
    """A pair seed is not held against its commitment by the node that receives it."""
    honest = sharing.open_seed

    def open_seed(envelope: Any, session: bytes, mask_key: Any) -> bytes:
        with patch.object(sharing, "commit_pair_seed", lambda *_: envelope.commitment):
            return honest(envelope, session, mask_key)

    return patch.object(sharing, "open_seed", open_seed)


def unchecked_shares() -> Weakening:
    """A share is not held against its commitment by the node that receives it."""
    honest = sharing._open_shares

    def open_shares(envelope: Any, *arguments: Any) -> Any:
        with patch.object(sharing, "_commitments", lambda *_: envelope.commitments):
            return honest(envelope, *arguments)

    return patch.object(sharing, "_open_shares", open_shares)


def bytes_behind_the_end_ignored() -> Weakening:
    """The parser takes the first value in the bytes and does not look further."""
    return patch("protocols.wire.parse_canonical", lambda data, sender: cbor2.load(io.BytesIO(data)))


def sizes_not_bounded() -> Weakening:
    """Messages of any size are parsed."""
    weakening = ExitStack()
    for module in ("protocols.wire", "protocols.client", "secfed.channel"):
        weakening.enter_context(patch(f"{module}.most_map_bytes", lambda kind, limits: 1 << 40))
    return weakening


def entropy_comes_again() -> Weakening:
    """A node that starts again draws the same secrets: a restored virtual machine, or a root derived from the study."""
    return patch.object(FreshEntropy, "next_draw", lambda source: 0)


def unchecked_sum() -> Weakening:
    """A published sum is taken with whatever tag it has."""
    return patch.object(Client, "_check_sum", lambda node, total, tag: None)


def checksum_without_constant() -> Weakening:
    """The checksum is linear and not affine: k_0 = 0."""
    honest = ChecksumKey.tag
    return patch.object(ChecksumKey, "tag", lambda key, vector, count=1: honest(key, vector, 0))


def unchecked_contributions() -> Weakening:
    """A checksum contribution is not held against its commitment by the node that receives it."""
    honest = sharing._open_shares

    def open_shares(envelope: Any, session: bytes, channel_key: Any, advertisement: Any) -> Any:
        with patch.object(sharing, "commit_checksum", lambda *_: advertisement.checksum_commitment):
            return honest(envelope, session, channel_key, advertisement)

    return patch.object(sharing, "_open_shares", open_shares)


def floor_forgotten() -> Weakening:
    """A node does not remember on disk which rounds it has joined."""
    weakening = ExitStack()
    weakening.enter_context(patch.object(NodeStore, "floor", lambda store, study: 0))
    weakening.enter_context(patch.object(NodeStore, "join", lambda store, study, number, state: None))
    return weakening


def rounds_not_bounded() -> Weakening:
    """A node joins rounds beyond the study's last."""
    honest = Node._open_round

    def open_round(node: Node, message: RoundOpening) -> bytes:
        bounded = node.study
        endless = bounded.algorithm.model_copy(update={"rounds": NUMBER_MAX})
        node.study = bounded.model_copy(update={"algorithm": endless})
        try:
            return honest(node, message)
        finally:
            node.study = bounded

    return patch.object(Node, "_open_round", open_round)


def attempts_not_counted() -> Weakening:
    """A node does not count the rounds that it joins on one state."""
    return patch.object(NodeStore, "attempts", lambda store, study, state: 0)


def no_lock() -> Weakening:
    """A node forgets what it signed until it has a receipt."""
    return patch.object(Node, "_unfinished", lambda node: None)


def sessions_outlive_adoption() -> Weakening:
    """A node's open session goes on when the node adopts a receipt."""
    honest = Node._adopt

    def adopt(node: Node, links: Any) -> None:
        session, node._client = node._client, None
        try:
            honest(node, links)
        finally:
            node._client = session

    return patch.object(Node, "_adopt", adopt)


def signers_not_counted(quorum: int) -> Weakening:
    """A receipt is taken to have enough signatures."""
    return patch("protocols.receipts.count_signers", lambda statement, signatures, roster: quorum)


def echoes_not_counted(signers: int) -> Weakening:
    """A node co-signs whatever it is shown, as if enough survivors had signed it."""
    return patch("secfed.node.count_signers", lambda statement, signatures, roster: signers)


def sums_not_held_against_receipts() -> Weakening:
    """A node that catches up computes its state from whatever sum comes with a good receipt."""
    return patch.object(
        Chain, "_state_after", lambda chain, statement, packed: chain.next_state(packed, statement.survivors)
    )


def receipts_digested_with_signatures() -> Weakening:
    """A receipt's digest covers its signatures, too."""
    return patch.object(Receipt, "digest", lambda receipt: digest("receipt", encode(receipt)))


def restores_not_announced() -> Weakening:
    """The owner of a restored node starts it as if nothing had happened."""
    return patch.object(NodeStore, "raise_floor", lambda store, study, number: None)


def spend_not_held_against_receipts() -> Weakening:
    """A node adopts receipts of rounds in which it took part, whatever its ledger says."""
    weakening = ExitStack()
    weakening.enter_context(patch.object(Node, "_check_spend", lambda node, number: None))
    weakening.enter_context(patch.object(Ledger, "release", lambda ledger, study, number, receipt: None))
    return weakening
