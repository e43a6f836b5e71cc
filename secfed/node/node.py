"""The program that a hospital runs: it owns the data, the identity key, the policy and the ledger.

`handle` takes one request and gives one answer, whatever carries them. The node checks every header against its study,
its policy and its own model; it trains only when all envelopes of a round are open and valid; its ledger commits before
the upload leaves; it computes the next state itself. What it cannot accept it answers with nothing: the reason goes to
its owner, never to the aggregator. A peer's fault alone it names to everybody, by a code (`secfed.rounds.faults`).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace

from crypto.randomness import NoiseSecret
from protocols.client import Client
from protocols.errors import BadSignature, LocalError, ProtocolError, RemoteError, WrongSession
from protocols.events import ClientEvent, CohortSeen, InputWanted, Send, SumPublished
from protocols.messages import Published
from protocols.receipts import SIGNING_LABEL, Receipt, Statement, count_signers
from protocols.session import SessionConfig
from protocols.steps import State
from protocols.wire import Limits, decode, encode, message_type
from secfed.node import books
from secfed.node.attempts import Attempts
from secfed.node.consent import AGREED, Agreed, Consent, KeepsOut
from secfed.node.pace import hold_back
from secfed.node.parts import NodeParts
from secfed.node.session_end import SessionEnd
from secfed.node.views import Views
from secfed.rounds.chain import Chain
from secfed.rounds.channel import EchoRequest, Link, Offer, RoundOpening, Standing, StudyClosing, most_request_bytes
from secfed.rounds.faults import NodeClaims
from secfed.study.manifest import Study
from secfed.study.signing import APPROVAL_LABEL


class Node:
    """One hospital in one study."""

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
            parts: what this hospital owns.
            on_step: told the node's name and the local step after each; stays inside the hospital.
            tell_owner: told the node's name and, in a line, who is said to have broken a round, or that an upload was
                late; stays there, too.
            pause: waits for so many seconds.
            clock: seconds, for the time after which a session ends by itself.
            consent: asked before each round and each spend; where there is none, its owner has agreed to all of them.
        """
        self.study = study
        self.parts = parts
        self.index = study.index_of(parts.name)
        self.chain = Chain(study, parts.trainer.layout, parts.trainer.first_state())
        self._on_step = on_step or (lambda name, step: None)
        tell = tell_owner or (lambda name, text: None)
        self.tell_owner: Callable[[str], None] = lambda text: tell(parts.name, text)
        self._pause = pause
        self._consent = consent
        self._attempts = Attempts(study, parts.store, self.tell_owner)
        self._end = SessionEnd(parts.policy.pace.session_ends_after_seconds, clock, self.tell_owner)
        self._claims = NodeClaims(study, self.index, parts.identity, self.tell_owner)
        self._views = Views(study)
        self._client: Client | None = None
        self._joined = parts.policy  # the one that the session goes by, whatever is taken up meanwhile
        self.end_named: bytes | None = None
        self._limits = Limits(len(study.roster), self.chain.shape.packed_bytes)
        self._keys = study.identities
        self._replay()

    def handle(self, request: bytes) -> bytes:
        """Answer one request of the coordinator.

        Returns:
            The answer; empty when there is nothing to say. A complaint when a peer's fault ends this node's session.

        Raises:
            ProtocolError: this node takes no part: for its owner's eyes, not for the aggregator's.
            DPError: the ledger refuses.
        """
        self.end_overdue()
        name = message_type(request, most_request_bytes(self._limits), None)
        if name == RoundOpening.TYPE:
            message = decode(RoundOpening, request, self._limits, None)
            self._claims.hear(message.faults, message.opening.round_number)
            return self._open_round(message)
        if name == StudyClosing.TYPE:
            closing = decode(StudyClosing, request, self._limits, None)
            self._claims.hear(closing.faults, self.study.algorithm.rounds + 1)
            self._adopt(closing.links)
            self.end_named = books.end_of(self.study, closing.links)
            return self._standing(closing.links)
        if name == EchoRequest.TYPE:
            return self._echo(decode(EchoRequest, request, self._limits, None))
        if self._client is None:
            raise WrongSession("a message before any round was opened", sender=None, field="type")
        if name == Published.TYPE:
            return self._close_round(request)
        try:
            events = self._client.receive(request)
        except ProtocolError as error:
            return self._claims.complain(error, self._client.config.context.round_number, request)
        return self._act(events)

    def end_overdue(self) -> float | None:
        """End the open session if its time is over. Gives the seconds that it has left; None where none is open."""
        return self._end.look(self._client)

    def check_ready(self) -> None:
        """Take up the owner's policy as it is now.

        Raises:
            KeepsOut, DataChanged: this node joins no round for now.
        """
        policy = self._consent.before_round(self.parts.policy, self.chain.shape.packed_bytes, self.tell_owner)
        self.parts = replace(self.parts, policy=policy)
        self._end.seconds = policy.pace.session_ends_after_seconds

    @property
    def session(self) -> tuple[int, State] | None:
        """The round that the last session is, or was, of, and where that stands."""
        return None if self._client is None else (self._client.config.context.round_number, self._client.state)

    def standing(self) -> bytes:
        """The last receipt that this node has adopted, whatever it has signed since; and not why it does not join."""
        return encode(Standing(self.index, self.chain.round_number, self.chain.state.digest(self.chain.layout)))

    def abandon(self) -> None:
        """End the open session, if there is one, and wipe its secrets."""
        if self._client is not None:
            self._client.abandon()

    def approve(self, study_file: bytes) -> bytes:
        """This node's signature over the study: its values, which the protocol uses, and its file, which people read.

        Args:
            study_file: digest of the file's bytes (`secfed.study.approvals.study_file_digest`).
        """
        return self.parts.identity.sign(APPROVAL_LABEL, self.study.digest, study_file)

    def _open_round(self, message: RoundOpening) -> bytes:
        self._adopt(message.links)
        opening = message.opening
        behind = opening.predecessor != self.chain.head and opening.study == self.study.digest
        if behind or self._unfinished() is not None:
            return self._standing(message.links)
        if self._client is not None and opening.round_number == self._client.config.context.round_number:
            return self._act(self._client.receive(encode(opening)))
        books.check_open(self.study, self.parts)
        store, digest = self.parts.store, self.study.digest
        if not store.floor(digest) < opening.round_number <= self.study.algorithm.rounds:
            raise WrongSession("a round number that is not the next", sender=None, field="round_number")
        try:
            self.check_ready()
        except KeepsOut:
            return self._standing(message.links)
        self._check_restored()
        books.commit_forgotten(self.study, self.parts)
        self.chain.context(opening.round_number).check_opening(opening)
        self._attempts.check(opening.state)
        if self._client is not None:
            self._client.abandon()
            self._views.keep(self._client)
        store.join(digest, opening.round_number, opening.state)
        self._joined = self.parts.policy
        seen = store.ledger_sequences()
        self._client = Client(
            SessionConfig(
                self._joined.rules(self.study),
                self._keys,
                self.chain.context(opening.round_number),
                self.study.magnitude,
            ),
            self.index,
            self.parts.identity,
            ledger_sequence=self.parts.ledger.sequence,
            last_ledger_sequences={node: seen.get(key.raw, 0) for node, key in enumerate(self._keys)},
        )
        self._end.begin()
        self.end_named = None
        return self._act(self._client.receive(encode(opening)))

    def _act(self, events: tuple[ClientEvent, ...]) -> bytes:
        """Do what the session asks for. If that fails, the session ends: a repeated message must not get an answer."""
        try:
            return self._perform(events)
        except BaseException:
            if self._client is not None:
                self._client.abandon()
            raise

    def _perform(self, events: tuple[ClientEvent, ...]) -> bytes:
        answer = b""
        for event in events:
            match event:
                case Send(data):
                    answer = data
                case CohortSeen(_, _, sequences):
                    self.parts.store.remember_ledger_sequences(
                        {self._keys[node].raw: number for node, number in sequences.items()}
                    )
                case InputWanted():
                    answer = self._contribute()
                case SumPublished():
                    pass  # `_close_round` computes the next state from the packed bytes
        return answer

    def _contribute(self) -> bytes:
        """Train privately, wait for the upload's moment, commit in the ledger, then mask and upload; in this order.

        What the ledger tells is handed on: were it written before the wait, it would tell how long training took.
        """
        asked = time.monotonic()
        client = self._live_client()
        round_number = client.config.context.round_number
        secret = NoiseSecret()

        def progress(step: int) -> None:
            self._end.check(client)
            self._on_step(self.parts.name, step)

        try:
            vector = self.parts.trainer.contribute(self.chain.state, round_number, secret, progress)
        finally:
            secret.wipe()
        hold_back(self.parts.policy.pace.upload_after_seconds, asked, self._pause, self.tell_owner)
        self._end.check(client)
        self._consent.before_spend(self._joined, self.chain.shape.packed_bytes, self.tell_owner)
        books.commit(self.study, self.parts, round_number)
        return client.submit(vector)

    def _close_round(self, request: bytes) -> bytes:
        """Compute the next state from the sum, sign the statement, and lock to it on disk before it leaves."""
        client = self._live_client()
        try:
            events = client.receive(request)
        except RemoteError as error:
            self._attempts.sum_refused(error, client)
            raise
        for event in events:
            if isinstance(event, SumPublished):
                packed = decode(Published, request, self._limits, None).vector
                following = self.chain.next_state(packed, event.survivors)
                answer = client.close(following.digest(self.chain.layout))
                try:
                    self._lock(client.statement, packed)
                except BaseException:
                    client.abandon()  # or a repeated request would get the signature that was not written down
                    raise
                return answer
        return self._act(events)

    def _echo(self, message: EchoRequest) -> bytes:
        """Sign a round's statement on the word of more than c survivors: one of them is honest and saw the sum."""
        statement = message.statement
        held = self.parts.store.locked(self.study.digest, statement.round_number)
        if held is not None:
            return held  # what was signed for that round, whatever is asked for now
        self.chain.check_next(statement, message.vector)
        misled = self._views.difference(self._client, statement)
        if misled is not None:
            self.tell_owner(misled)
            raise WrongSession("an echo of a round that this node saw otherwise", sender=None, field="statement")
        if self.index not in statement.survivors:
            raise WrongSession("an echo is asked of a node that is no survivor", sender=None, field="statement")
        needed = self.study.cohort.colluders + 1
        if count_signers(statement, message.signatures, self._keys) < needed:
            raise BadSignature(f"an echo needs {needed} valid signatures", sender=None, field="signatures")
        offer = self._lock(statement, message.vector)
        if self._client is not None:
            self._client.abandon()  # whatever its round: it stands on an older predecessor than what is signed now
        return offer

    def _lock(self, statement: Statement, packed: bytes) -> bytes:
        """Write down what this node signs for a round; from here on it signs and joins on no older predecessor."""
        self._check_restored()
        if self._unfinished() is not None:  # every statement that gets here follows this node's last receipt
            raise WrongSession(
                "a statement that passes over a round which this node has signed", sender=None, field="statement"
            )
        signature = self.parts.identity.sign(SIGNING_LABEL, statement.digest())
        offer = encode(Offer(self.index, statement, packed, signature))
        try:
            self.parts.store.lock(self.study.digest, statement.round_number, offer)
        except ValueError as error:
            raise WrongSession(str(error), sender=None, field="round_number") from error
        return offer

    def _unfinished(self) -> bytes | None:
        """The offer of a round that this node signed for and that its chain has not reached."""
        offer = self.parts.store.locked(self.study.digest)
        if offer is None:
            return None
        number = decode(Offer, offer, self._limits, self.index).statement.round_number
        return offer if number > self.chain.round_number else None

    def _kept_sum(self, statement: Statement) -> bytes | None:
        """The sum behind a statement, if this node signed exactly that statement."""
        offer = self.parts.store.locked(self.study.digest, statement.round_number)
        if offer is None:
            return None
        held = decode(Offer, offer, self._limits, self.index)
        return held.vector if held.statement == statement else None

    def _adopt(self, links: tuple[Link, ...]) -> None:
        try:
            for link in links:
                if link.receipt.statement.round_number > self.chain.round_number and not self._append(link):
                    return  # the next opening is answered with where this node stands
        finally:
            # A session stands on the receipt at which it was joined: on another it would train and sign another state.
            if self._client is not None and self._client.config.context.predecessor != self.chain.head:
                self._client.abandon()

    def _append(self, link: Link) -> bool:
        """Make this link the next of the chain. False if the sum that it covers is not there."""
        statement = link.receipt.statement
        packed = link.vector or self._kept_sum(statement)
        if packed is None:
            return False
        ahead = copy.copy(self.chain)
        ahead.adopt(link.receipt, packed)
        misled = self._views.difference(self._client, statement)
        if misled is not None:
            self.tell_owner(misled)
        if self.index in statement.survivors:
            self._check_spend(statement.round_number)
        self.parts.store.append_link(self.study.digest, ahead.length, encode(link.receipt), packed)
        self.chain = ahead
        self._release(link.receipt)
        return True

    def _release(self, receipt: Receipt) -> None:
        """Note in the ledger that a round which it has committed has its receipt."""
        ledger, study, number = self.parts.ledger, self.study.digest, receipt.statement.round_number
        took_part = self.index in receipt.statement.survivors and ledger.holds("commit", study, number)
        if took_part and not ledger.holds("release", study, number):
            ledger.release(study, number, receipt.digest())

    def _check_restored(self) -> None:
        """After a restore this node is held to rounds that it has forgotten, until its chain has passed them."""
        raised = self.parts.store.raised_floor(self.study.digest)
        if self.chain.round_number < raised:
            raise LocalError(
                f"this node's files were put back from a copy, and it may have signed for any round up to {raised}: "
                "it takes no part until there is a receipt of that round or of a later one"
            )

    def _check_spend(self, round_number: int) -> None:
        """A receipt counts this node among the survivors: then its ledger has committed that round, and not closed it.

        If it is otherwise, ledger or store are older than the round. When the owner has said so, the round is committed
        anew, so that the spend is not forgotten; when not, this node stops: it may have forgotten signatures, too.
        """
        ledger, study = self.parts.ledger, self.study.digest
        committed = ledger.holds("commit", study, round_number)
        if committed and not ledger.holds("release", study, round_number):
            return
        if round_number > self.parts.store.raised_floor(study):
            raise LocalError(
                f"a receipt says that this node took part in round {round_number}, and its files do not know of it. "
                "Either they were put back from a copy: then ask the other sites for the highest round that they have "
                "seen, and raise this node's floor to it (`secfed node restored`). Or somebody else holds its key, or "
                "the aggregator and other nodes lie about who was summed: then tell the other sites, and do not"
            )
        if not committed:
            books.commit(self.study, self.parts, round_number)

    def _replay(self) -> None:
        """After a restart: compute the state again from the links on disk."""
        for data, packed in self.parts.store.links(self.study.digest):
            receipt = decode(Receipt, data, self._limits, self.index)
            self.chain.adopt(receipt, packed)
            self._release(receipt)  # a crash may have come between the link and the ledger's entry

    def _standing(self, links: tuple[Link, ...]) -> bytes:
        """Where this node stands: its offer while it is locked, unless there are receipts that it still has to get."""
        offer = self._unfinished()
        if offer is not None:
            locked = decode(Offer, offer, self._limits, self.index).statement.round_number
            if all(link.receipt.statement.round_number < locked for link in links):
                return offer
        return self.standing()

    def _live_client(self) -> Client:
        if self._client is None:
            raise ProtocolError("no session is open at this node")
        return self._client
