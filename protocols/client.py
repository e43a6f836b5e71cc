"""The node's state machine: one session, one use, no sockets, clocks or files.

How it works. A session is a line of states: `STEPS`, at the end of this file, is that line, and the diagram of it in
SPEC.md, section 8, is made from it (`protocols.diagram`). In each state the node waits for exactly one thing, a message
of the aggregator or a call of the program around it, and answers it once. Bytes seen before get the same answer again,
byte for byte, because the network may repeat them. A second, *different* message of a kind already answered means that
the aggregator shows different nodes different things: the session ends (FAILED), the node wipes its secrets, and counts
as a dropout like any other. Anything else that no honest party sends also ends the session. A call out of turn is
refused, and does not end the session. The node never takes from a message what it can compute itself.

Why one answer per kind is enough to keep inputs secret: PROTOCOL, "Agree" and "Unmask". A node signs one (U2, U3) per
session and releases, against t signatures on exactly those sets, one kind of share per peer.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from crypto.identity import Identity
from crypto.kdf import DIGEST_BYTES, digest
from crypto.randomness import Entropy, system_entropy
from crypto.sealing import SealingKey
from protocols import checksum, derivations, encoding, sharing
from protocols.errors import (
    BadSignature,
    CohortTooSmall,
    Equivocation,
    Excluded,
    LocalError,
    NotCanonical,
    OutOfOrder,
    WrongLength,
    WrongSession,
    WrongSum,
)
from protocols.events import ClientEvent, CohortSeen, InputWanted, Send, SumPublished
from protocols.masking import MaskedSum
from protocols.messages import (
    Advertise,
    Agree,
    Agreement,
    Close,
    Cohort,
    Delivery,
    MaskedInput,
    Opening,
    Published,
    ReleasedShare,
    Share,
    Survivors,
    Unmask,
)
from protocols.receipts import SIGNING_LABEL, Statement, statement_of
from protocols.session import SessionConfig, check_cohort, session_id
from protocols.steps import Called, Given, Received, State, Step, received
from protocols.wire import decode, encode, message_type, most_map_bytes


class Client:
    """One node in one session."""

    def __init__(
        self,
        config: SessionConfig,
        index: int,
        identity: Identity,
        *,
        ledger_sequence: int,
        last_ledger_sequences: Mapping[int, int] | None = None,
        entropy: Entropy = system_entropy,
    ) -> None:
        """
        Args:
            config: what this node derived for the round. The caller has persisted its round number already.
            index: this node's place in the roster.
            identity: this node's long-term key; it must be the one that the roster pins.
            ledger_sequence: entries in this node's ledger.
            last_ledger_sequences: the largest number seen from each peer so far.
            entropy: where the session's root secret comes from.

        Raises:
            LocalError: the index or the identity is not this roster's.
        """
        if not 0 <= index < len(config.roster) or config.roster[index] != identity.public:
            raise LocalError("this identity is not the one that the roster pins for this node")
        self.config = config
        self.index = index
        self.state = State.NEW
        self._identity = identity
        self._ledger_sequence = ledger_sequence
        self._last_ledger_sequences = dict(last_ledger_sequences or {})
        self._context = config.context.digest()
        self._secrets = derivations.SessionSecrets(entropy)
        self._answers: dict[str, tuple[bytes, tuple[ClientEvent, ...]]] = {}
        self._advertisement: Advertise | None = None
        self._cohort: dict[int, Advertise] = {}
        self._session = b""
        self._quorum = 0
        self._received: dict[int, sharing.ReceivedShares] = {}
        self._pair_seeds: dict[int, bytes] = {}
        self.sharers: tuple[int, ...] = ()
        """U2 as the aggregator showed it to this node; empty before."""
        self.survivors: tuple[int, ...] = ()
        """U3 as the aggregator showed it to this node; empty before."""
        self._published = b""
        self._statement: Statement | None = None
        self.checksum_contributions: dict[int, bytes] = {}
        """z_v of every sharer, for the verified sum. The only values kept after Unmask, until the sum is checked."""

    def receive(self, data: bytes) -> tuple[ClientEvent, ...]:
        """Take one message from the aggregator.

        Returns:
            What to do, in order. For bytes seen before, the same answer as then.

        Raises:
            RemoteError: another party's fault; the session has ended and its secrets are wiped.
            LocalError: the session had ended before.
        """
        if self.state is State.FAILED:
            raise LocalError("this session has failed; wait for the next round")
        try:
            return self._dispatch(data)
        except BaseException:  # any error: a half-handled message must leave neither secrets nor a second try
            self.abandon()
            raise

    def submit(self, vector: NDArray[np.int64]) -> bytes:
        """Mask this node's vector. Call it once, after `InputWanted` and the ledger's commit.

        Args:
            vector: int64, D elements, none above the certified magnitude.

        Returns:
            The MaskedInput message.

        Raises:
            LocalError: called out of turn, or the vector does not fit. Nothing was sent.
        """
        return self._call(_SUBMIT, vector)

    def close(self, new_state: bytes) -> bytes:
        """Sign the statement over the published sum and the state that this node computed from it.

        Args:
            new_state: 32-byte digest of the next state.

        Returns:
            The Close message.

        Raises:
            LocalError: called out of turn, or with something that is not a digest.
        """
        return self._call(_CLOSE, new_state)

    @property
    def session(self) -> bytes:
        """The session id; empty before the cohort is known."""
        return self._session

    @property
    def statement(self) -> Statement:
        """The statement that this node signed. Raises LocalError before the node has signed."""
        if self.state is not State.CLOSED or self._statement is None:
            raise LocalError("this session has not closed")
        return self._statement

    def abandon(self) -> None:
        """End the session now: wipe its secrets and answer nothing more. Also called when a newer round opens."""
        self._wipe()
        self.checksum_contributions = {}
        self._answers.clear()
        if self.state is not State.CLOSED:
            self.state = State.FAILED

    def _dispatch(self, data: bytes) -> tuple[ClientEvent, ...]:
        name = message_type(data, self._most_bytes(), None)
        fingerprint = digest("received", data)
        if name in self._answers:
            seen, answer = self._answers[name]
            if seen != fingerprint:
                raise Equivocation(f"a second, different {name} message", sender=None)
            return answer
        step = STEPS.get(self.state)
        if not isinstance(step, Received):
            raise OutOfOrder(f"a {name} message in state {self.state.value}", sender=None)
        if name != step.kind.TYPE:
            raise OutOfOrder(f"a {name} message instead of {step.kind.TYPE}", sender=None)
        events = step.handler(self, decode(step.kind, data, self.config.limits, None))
        self.state = step.then
        # The answer to a repeated Delivery or Published is that of `submit` or `close`; until then there is no answer.
        repeatable = tuple(event for event in events if isinstance(event, Send))
        self._answers[name] = (fingerprint, repeatable)
        return events

    def _call(self, step: Called[Given], given: Given) -> bytes:
        if STEPS.get(self.state) is not step:
            raise LocalError(f"{step.name} is called out of turn, in a session that is {self.state.value}")
        message = step.handler(self, given)
        self.state = step.then
        answer = encode(message)
        fingerprint, _ = self._answers[step.answers.TYPE]
        self._answers[step.answers.TYPE] = (fingerprint, (Send(answer),))
        return answer

    def _most_bytes(self) -> int:
        """The size of the largest message that may come now: the expected one, or a repetition."""
        waited_for = STEPS.get(self.state)
        messages = [step for step in STEPS.values() if isinstance(step, Received)]
        due = [step.kind for step in messages if step is waited_for or step.kind.TYPE in self._answers]
        return max((most_map_bytes(kind, self.config.limits) for kind in due), default=0)

    def _advertise(self, opening: Opening) -> tuple[ClientEvent, ...]:
        """Stage 0."""
        self.config.context.check_opening(opening)
        secrets = self._secrets
        self._advertisement = self._signed(
            Advertise(
                context=self._context,
                sender=self.index,
                channel_key=SealingKey(secrets.channel_seed()).public.raw,
                mask_key=SealingKey(secrets.mask_seed()).public.raw,
                self_mask_commitment=derivations.commit_self_mask(self.index, secrets.self_mask_seed()),
                checksum_commitment=derivations.commit_checksum(self.index, secrets.checksum_contribution()),
                ledger_sequence=self._ledger_sequence,
                signature=b"",
            )
        )
        return (Send(encode(self._advertisement)),)

    def _share(self, message: Cohort) -> tuple[ClientEvent, ...]:
        """Stage 1."""
        if self._advertisement not in message.advertisements:
            raise Excluded("this node's own advertisement is missing or changed", sender=None, field="advertisements")
        check_cohort(self.config, message.advertisements, self._last_ledger_sequences)
        self._cohort = {entry.sender: entry for entry in message.advertisements}
        size = len(self._cohort)
        self.config.rules.check_stage("the cohort", size, size)
        self._quorum = self.config.rules.quorum(size)
        self._session = session_id(self._context, message.advertisements)
        dealing = sharing.deal(
            self._secrets, self._identity, self.index, self._session, self._quorum, message.advertisements
        )
        self._received[self.index] = dealing.own
        self._pair_seeds.update(dealing.pair_seeds)
        share = self._signed(
            Share(self._session, self.index, dealing.shares, dealing.seeds, dealing.own_commitments, b"")
        )
        ledgers = {entry.sender: entry.ledger_sequence for entry in message.advertisements}
        return (CohortSeen(tuple(self._cohort), self._quorum, ledgers), Send(encode(share)))

    def _open_envelopes(self, message: Delivery) -> tuple[ClientEvent, ...]:
        """Stage 2, up to the point that needs the vector."""
        self._check_session(message.session)
        senders = sharing.check_addresses(message, self.index, self._cohort)
        self.sharers = tuple(sorted({*senders, self.index}))
        self.config.rules.check_stage("the set of sharers", len(self.sharers), len(self._cohort))
        opened = sharing.open_delivery(
            message,
            channel_key=SealingKey(self._secrets.channel_seed()),
            mask_key=SealingKey(self._secrets.mask_seed()),
            cohort=self._cohort,
            roster=self.config.roster,
        )
        self._received.update(opened.shares)
        self._pair_seeds.update(opened.pair_seeds)
        self._pair_seeds = {peer: self._pair_seeds[peer] for peer in self.sharers if peer != self.index}
        self.checksum_contributions = {peer: self._received[peer].checksum for peer in self.sharers}
        return (InputWanted(self.sharers),)

    def _mask(self, vector: NDArray[np.int64]) -> MaskedInput:
        """Stage 2, with the vector."""
        shape = self.config.context.shape
        words = encoding.to_ring(vector, shape, self.config.magnitude)
        masked = MaskedSum(self._view(), words, self._checksum_key().tag(vector))
        masked.add_self_mask(self._secrets.self_mask_seed(), self.index)
        for peer, seed in self._pair_seeds.items():
            masked.add_pair_mask(seed, self.index, peer)
        packed, tag = encoding.pack(masked.vector, shape), checksum.encode_tag(masked.tag)
        return self._signed(MaskedInput(self._session, self.index, packed, tag, b""))

    def _agree(self, message: Survivors) -> tuple[ClientEvent, ...]:
        """Stage 3."""
        self._check_session(message.session)
        if not set(message.survivors) <= set(self.sharers):
            raise WrongSession("a survivor that never shared", sender=None, field="survivors")
        if self.index not in message.survivors:
            raise Excluded("this node sent its masked input and is not among the survivors", sender=None)
        self.config.rules.check_stage("the survivor set", len(message.survivors), len(self._cohort))
        self.survivors = message.survivors
        return (Send(encode(self._signed(Agree(self._session, self.index, self.sharers, self.survivors, b"")))),)

    def _unmask(self, message: Agreement) -> tuple[ClientEvent, ...]:
        """Stage 4: one kind of share per peer, once, against t signatures on the sets signed here."""
        self._check_session(message.session)
        signers = [entry.signer for entry in message.signatures]
        if signers != sorted(set(signers)) or not set(signers) <= set(self.survivors):
            raise NotCanonical("signers not survivors in roster order, each once", sender=None, field="signatures")
        if len(signers) < self._quorum:
            raise CohortTooSmall(f"{len(signers)} signatures where {self._quorum} are needed", sender=None)
        for entry in message.signatures:
            shown = Agree(self._session, entry.signer, self.sharers, self.survivors, b"")
            if not self.config.roster[entry.signer].verifies(entry.signature, Agree.TYPE, shown.body()):
                raise BadSignature(f"node {entry.signer} did not sign the sets that this node signed", sender=None)
        dropped = sorted(set(self.sharers) - set(self.survivors))
        unmask = Unmask(
            self._session,
            self.index,
            tuple(ReleasedShare(owner, self._received[owner].self_mask) for owner in self.survivors),
            tuple(ReleasedShare(owner, self._received[owner].mask_key) for owner in dropped),
            b"",
        )
        answer = Send(encode(self._signed(unmask)))
        self._wipe()
        return (answer,)

    def _accept_sum(self, message: Published) -> tuple[ClientEvent, ...]:
        """Stage 5, up to the point that needs the next state: the sum, and its check."""
        self._check_session(message.session)
        context = self.config.context
        try:
            total = encoding.from_ring(encoding.unpack(message.vector, context.shape), context.shape)
        except ValueError as error:
            raise NotCanonical(str(error), sender=None, field="vector") from error
        if int(np.abs(total).max()) > len(self.survivors) * self.config.magnitude:
            raise WrongLength("a sum beyond what survivors can send", sender=None, field="vector", untraceable=True)
        self._check_sum(total, message.tag)
        self._published = message.vector
        return (SumPublished(self.survivors, total),)

    def _sign_statement(self, new_state: bytes) -> Close:
        """Stage 5, with the next state."""
        if len(new_state) != DIGEST_BYTES:
            raise LocalError(f"a state digest has {DIGEST_BYTES} bytes, not {len(new_state)}")
        groups = tuple(self._cohort), self.sharers, self.survivors
        context, packed = self.config.context, self._published
        self._statement = statement_of(context, self._session, groups, self._quorum, packed, new_state)
        content = self._statement.digest()
        return Close(self._session, self.index, content, self._identity.sign(SIGNING_LABEL, content))

    def _check_sum(self, total: NDArray[np.int64], tag: bytes) -> None:
        expected = checksum.encode_tag(self._checksum_key().tag(total, len(self.survivors)))
        if not hmac.compare_digest(tag, expected):
            raise WrongSum("the sum does not fit its tag", sender=None, field="tag", untraceable=True)
        self.checksum_contributions = {}

    def _checksum_key(self) -> checksum.ChecksumKey:
        return checksum.ChecksumKey(self._view(), self.checksum_contributions, self.config.context.shape.ring_bits)

    def _view(self) -> bytes:
        return derivations.view_of(self._session, self.sharers)

    def _check_session(self, session: bytes) -> None:
        if session != self._session:
            raise WrongSession("a message of another session", sender=None, field="session")

    def _signed(self, message: sharing.Signable) -> sharing.Signable:
        return sharing.sign(message, self._identity)

    def __reduce__(self) -> str:
        raise TypeError("a session is never pickled or copied: it would answer twice")

    def _wipe(self) -> None:
        self._secrets.wipe()
        self._received.clear()
        self._pair_seeds.clear()


_SUBMIT = Called("submit", Client._mask, Delivery, State.MASKED)
_CLOSE = Called("close", Client._sign_statement, Published, State.CLOSED)
STEPS: dict[State, Step] = {
    State.NEW: received(Opening, Client._advertise, State.ADVERTISED),
    State.ADVERTISED: received(Cohort, Client._share, State.SHARED),
    State.SHARED: received(Delivery, Client._open_envelopes, State.READY),
    State.READY: _SUBMIT,
    State.MASKED: received(Survivors, Client._agree, State.AGREED),
    State.AGREED: received(Agreement, Client._unmask, State.UNMASKED),
    State.UNMASKED: received(Published, Client._accept_sum, State.SUMMED),
    State.SUMMED: _CLOSE,
}
"""The line of states: for each state, the step that moves the session on, and the next state."""
