"""The program that a site runs: it owns the data, the identity key, the policy and the ledger.

`Node.handle` takes one request and gives one answer, whatever carries them. The node checks every header against its
study, its policy and its own model. It trains only when all envelopes of a round are open and valid, its ledger commits
before the upload leaves, and it computes the next state itself. It does not answer a request that it rejects; only its
owner learns why. A fault of a peer is the exception: that one the node names to everybody, by a code
(`secfed.rounds.faults`).

This module is the front. Behind it: `replica` follows the chain of receipts, `session` runs a round, `contribution`
makes the upload, `locks` keeps what was signed, `echo` signs a round whose end was missed, `restored` holds a node to
what its files have forgotten, and `books` writes the ledger.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from protocols.errors import ProtocolError, WrongSession
from protocols.messages import Published
from protocols.steps import State
from protocols.wire import decode, encode, message_type
from secfed.node import books, locks, restored
from secfed.node.consent import AGREED, Agreed, Consent, KeepsOut
from secfed.node.contribution import Contribution
from secfed.node.echo import echo
from secfed.node.parts import NodeParts
from secfed.node.replica import Replica
from secfed.node.session import Session
from secfed.rounds.chain import Chain
from secfed.rounds.channel import EchoRequest, Link, RoundOpening, Standing, StudyClosing, most_request_bytes
from secfed.rounds.faults import NodeClaims
from secfed.study.manifest import Study
from secfed.study.signing import APPROVAL_LABEL


class Node:
    """One site in one study."""

    def __init__(
        self,
        study: Study,
        parts: NodeParts,
        on_step: Callable[[str, int], None] | None = None,
        tell_owner: Callable[[str, str], None] | None = None,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        consent: Consent | Agreed = AGREED,
    ) -> None:
        """
        Args:
            study: checked against the policy and reserved in the ledger already.
            parts: what this site owns.
            on_step: told the node's name and the local step after each; stays inside the site.
            tell_owner: told the node's name and, in a line, who is said to have broken a round, or that an upload was
                late; stays there, too.
            pause: waits for so many seconds.
            clock: seconds, for the time after which a session ends by itself.
            consent: asked before each round and each spend; where there is none, its owner has agreed to all of them.
        """
        step = on_step or (lambda name, number: None)
        tell = tell_owner or (lambda name, text: None)
        self.study = study
        self.parts = parts
        self.index = study.index_of(parts.name)
        self.tell_owner: Callable[[str], None] = lambda text: tell(parts.name, text)
        self.end_named: bytes | None = None
        """The receipt at which the aggregator says that the study ends; None while a round may be open."""
        self._consent = consent
        contribution = Contribution(consent, lambda number: step(parts.name, number), pause, self.tell_owner)
        self._session = Session(study, parts, contribution, clock, self.tell_owner)
        self._claims = NodeClaims(study, self.index, parts.identity, self.tell_owner)
        self._replica = Replica(study, parts)

    @property
    def chain(self) -> Chain:
        """Where this node stands in the study."""
        return self._replica.chain

    @property
    def session(self) -> tuple[int, State] | None:
        """The round that the last session is, or was, of, and where that stands."""
        return self._session.round

    def handle(self, request: bytes) -> bytes:
        """Answer one request of the coordinator.

        Returns:
            The answer; empty when there is nothing to say. A complaint when a peer's fault ends this node's session.

        Raises:
            ProtocolError: this node takes no part: for its owner's eyes, not for the aggregator's.
            DPError: the ledger refuses.
        """
        self.end_overdue()
        limits = self.chain.limits
        name = message_type(request, most_request_bytes(limits), None)
        if name == RoundOpening.TYPE:
            message = decode(RoundOpening, request, limits, None)
            self._claims.hear(message.faults, message.opening.round_number)
            return self._open_round(message)
        if name == StudyClosing.TYPE:
            closing = decode(StudyClosing, request, limits, None)
            self._claims.hear(closing.faults, self.study.algorithm.rounds + 1)
            self._catch_up(closing.links)
            self.end_named = books.end_of(self.study, closing.links)
            return self._standing(closing.links)
        if name == EchoRequest.TYPE:
            return echo(decode(EchoRequest, request, limits, None), self.parts, self.chain, self._session)
        client = self._session.client
        if client is None:
            raise WrongSession("a message before any round was opened", sender=None, field="type")
        if name == Published.TYPE:
            return self._session.close(request, self.parts, self.chain)
        try:
            events = client.receive(request)
        except ProtocolError as error:
            return self._claims.complain(error, client.config.context.round_number, request)
        return self._session.act(events, self.parts, self.chain)

    def end_overdue(self) -> float | None:
        """End the open session if its time is over. Gives the seconds that it has left; None where none is open."""
        return self._session.end.look(self._session.client)

    def check_ready(self) -> None:
        """Take up the owner's policy as it is now.

        Raises:
            KeepsOut, DataChanged: this node joins no round for now.
        """
        policy = self._consent.before_round(self.parts.policy, self.chain.shape.packed_bytes, self.tell_owner)
        self.parts = replace(self.parts, policy=policy)
        self._session.end.seconds = policy.pace.session_ends_after_seconds

    def standing(self) -> bytes:
        """The last receipt that this node has adopted, whatever it has signed since; and not why it does not join."""
        return encode(Standing(self.index, self.chain.round_number, self.chain.state.digest(self.chain.layout)))

    def abandon(self) -> None:
        """End the open session, if there is one, and wipe its secrets."""
        self._session.abandon()

    def approve(self, study_file: bytes) -> bytes:
        """This node's signature over the study: its values, which the protocol uses, and its file, which people read.

        Args:
            study_file: digest of the file's bytes (`secfed.study.approvals.study_file_digest`).
        """
        return self.parts.identity.sign(APPROVAL_LABEL, self.study.digest, study_file)

    def _open_round(self, message: RoundOpening) -> bytes:
        """Catch up, and join the round if nothing is against it. Everything is checked before anything is spent."""
        self._catch_up(message.links)
        opening = message.opening
        behind = opening.predecessor != self.chain.head and opening.study == self.study.digest
        if behind or locks.unfinished(self.parts, self.chain) is not None:
            return self._standing(message.links)
        client = self._session.client
        if client is not None and opening.round_number == client.config.context.round_number:
            return self._session.act(client.receive(encode(opening)), self.parts, self.chain)  # asked again
        books.check_open(self.study, self.parts)
        # A number serves once: after a crash, a session of the same number would be a second one with other secrets.
        if not self.parts.store.floor(self.study.digest) < opening.round_number <= self.study.algorithm.rounds:
            raise WrongSession("a round number that is not the next", sender=None, field="round_number")
        try:
            self.check_ready()
        except KeepsOut:
            return self._standing(message.links)
        restored.check_restored(self.parts, self.chain)
        books.commit_forgotten(self.study, self.parts)
        self.chain.context(opening.round_number).check_opening(opening)
        client = self._session.begin(opening, self.parts, self.chain)
        self.end_named = None
        return self._session.act(client.receive(encode(opening)), self.parts, self.chain)

    def _catch_up(self, links: tuple[Link, ...]) -> None:
        try:
            self._replica.catch_up(links, self.parts, self._session.compare)
        finally:
            # A session stands on the receipt at which it was joined: on another it would train and sign another state.
            self._session.end_unless_on(self.chain.head)

    def _standing(self, links: tuple[Link, ...]) -> bytes:
        """Where this node stands: its offer while it is locked, unless there are receipts that it still has to get."""
        offer = locks.offer_beyond(self.parts, self.chain, links)
        return self.standing() if offer is None else offer
