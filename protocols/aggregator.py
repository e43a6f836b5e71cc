"""The aggregator's state machine: collects, forwards, sums, unmasks. It is trusted for liveness only.

How it works. A round goes through six stages. At the start of each stage the aggregator has sent one message to the
nodes still present. It takes at most one valid answer from each. A node without a valid answer at the end of the stage
is absent from then on. `advance` closes a stage and returns what to send next:

    stage          takes            `advance` then sends     to
    ADVERTISE      Advertise        Cohort (U1)              U1
    SHARE          Share            Delivery (U2)            U2
    MASKED_INPUT   MaskedInput      Survivors (U3)           U3
    AGREE          Agree            Agreement                those who agreed
    UNMASK         Unmask           Published                those who released
    CLOSE          Close            (the receipt)

If too few nodes are left at any stage, it raises `RoundVoid`. It adds masked inputs to the sum as they arrive; with the
shares of stage 4 it removes the survivors' self masks and the dropped nodes' pair masks again (`protocols.unmasking`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable

import numpy as np

from crypto.kdf import digest
from protocols import checksum, derivations, encoding, sharing
from protocols.errors import (
    BadSignature,
    CohortTooSmall,
    Equivocation,
    LocalError,
    MalformedMessage,
    OutOfOrder,
    RemoteError,
    RoundVoid,
    WrongSession,
)
from protocols.events import Accepted, AggregatorEvent, Rejected
from protocols.masking import MaskedSum
from protocols.messages import (
    Advertise,
    Agree,
    Agreement,
    Close,
    Cohort,
    Delivery,
    MaskedInput,
    Published,
    SeedEnvelope,
    Share,
    SharesEnvelope,
    Signature,
    Survivors,
    Unmask,
)
from protocols.receipts import Receipt, Statement, statement_of, valid_signers
from protocols.session import SessionConfig, session_id
from protocols.unmasking import Unmasking
from protocols.wire import decode, encode


class Stage(enum.Enum):
    """The answer that the aggregator is collecting; see the table above."""

    ADVERTISE = "advertise"
    SHARE = "share"
    MASKED_INPUT = "masked input"
    AGREE = "agree"
    UNMASK = "unmask"
    CLOSE = "close"


class Aggregator:
    """One round, at the untrusted party."""

    def __init__(self, config: SessionConfig) -> None:
        self.config = config
        self.stage = Stage.ADVERTISE
        self._context = config.context.digest()
        self._session = b""
        self._quorum = 0
        self._answered: set[int] = set()
        self._counted: set[tuple[int, bytes]] = set()
        self._present: set[int] = set(range(len(config.roster)))
        self._advertisements: dict[int, Advertise] = {}
        self._shares: dict[int, Share] = {}
        self._agreements: dict[int, Agree] = {}
        self._unmasks: dict[int, Unmask] = {}
        self._closings: dict[int, bytes] = {}
        self._statement: Statement | None = None
        self._running = encoding.empty_ring(config.context.shape)
        self._running_tag = 0
        self._packed = b""
        self.cohort: tuple[int, ...] = ()
        self.sharers: tuple[int, ...] = ()
        self.survivors: tuple[int, ...] = ()
        self.absent: dict[int, Stage] = {}
        """Node -> the stage at which it gave no valid answer."""

    def open(self) -> dict[int, bytes]:
        """The Opening for every node of the roster."""
        data = encode(self.config.context.opening())
        return dict.fromkeys(range(len(self.config.roster)), data)

    def receive(self, sender: int, data: bytes) -> AggregatorEvent | None:
        """Take one answer. The channel gives the sender's index; the signature proves it.

        Returns:
            Accepted or Rejected; None for a repetition of bytes that were already counted, at this stage or before.
        """
        fingerprint = digest("received", data)
        if (sender, fingerprint) in self._counted:
            return None
        try:
            if sender not in self._present:
                raise OutOfOrder(f"an answer to {self.stage.value} from a node that is absent", sender=sender)
            if sender in self._answered:
                raise Equivocation(f"a second, different answer to {self.stage.value}", sender=sender)
            _TAKES[self.stage](self, sender, data)
        except RemoteError as fault:
            return Rejected(sender, self.stage.value, fault)
        self._answered.add(sender)
        self._counted.add((sender, fingerprint))
        return Accepted(sender, self.stage.value)

    def advance(self) -> dict[int, bytes]:
        """Close the current stage with the nodes that have answered.

        Returns:
            The messages to send, by node.

        Raises:
            RoundVoid: too few are left, or a provable fault makes the sum unreachable.
            LocalError: there is no further stage; `receipt` ends the round.
        """
        if self.stage not in _ADVANCES:
            raise LocalError("the closing stage ends with `receipt`")
        for node in self._present - self._answered:
            self.absent[node] = self.stage
        self._present &= self._answered
        step, next_stage = _ADVANCES[self.stage]
        try:
            messages = step(self)
        except CohortTooSmall as error:
            raise RoundVoid(self.stage.value, str(error)) from error
        self._answered = set()
        self._present = set(messages)
        self.stage = next_stage
        return messages

    @property
    def missing(self) -> frozenset[int]:
        """The nodes whose answer to this stage is missing."""
        return frozenset(self._present - self._answered)

    @property
    def can_close(self) -> bool:
        """Whether enough nodes have signed for a receipt."""
        return len(self._closings) >= self._quorum

    @property
    def session(self) -> bytes:
        """The session id; empty before the cohort is fixed."""
        return self._session

    @property
    def quorum(self) -> int:
        """t of this round; 0 before the cohort is fixed."""
        return self._quorum

    @property
    def packed_sum(self) -> bytes:
        """The published sum, packed. Raises LocalError before there is a sum."""
        if not self._packed:
            raise LocalError("no sum has been published yet")
        return self._packed

    def expect_state(self, new_state: bytes) -> Statement:
        """Fix the statement with the state that the coordinator's own copy of the model reached from the sum."""
        groups = self.cohort, self.sharers, self.survivors
        self._statement = statement_of(
            self.config.context, self._session, groups, self._quorum, self.packed_sum, new_state
        )
        return self._statement

    def receipt(self) -> Receipt:
        """The receipt, from t or more signatures on the statement.

        Raises:
            RoundVoid: fewer than t signed.
            LocalError: `expect_state` was not called.
        """
        if self._statement is None:
            raise LocalError("call expect_state before the closing stage ends")
        for node in self._present - self._answered:
            self.absent.setdefault(node, self.stage)
        if not self.can_close:
            raise RoundVoid(
                self.stage.value,
                f"{len(self._closings)} signatures where {self._quorum} are needed: nodes refuse a sum that does not "
                "fit its tag, and one survivor's wrong upload is enough for that",
            )
        signatures = tuple(Signature(node, self._closings[node]) for node in sorted(self._closings))
        return Receipt(self._statement, signatures)

    def _take_advertise(self, sender: int, data: bytes) -> None:
        message = decode(Advertise, data, self.config.limits, sender)
        if message.context != self._context:
            raise WrongSession("an advertisement for another round", sender=sender, field="context")
        self._check_signed(sender, message)
        known = {key for other in self._advertisements.values() for key in (other.channel_key, other.mask_key)}
        if message.channel_key == message.mask_key or not known.isdisjoint((message.channel_key, message.mask_key)):
            raise WrongSession("a public key that is there already", sender=sender, field="channel_key")
        sharing.check_keys(message)
        self._advertisements[sender] = message

    def _form_cohort(self) -> dict[int, bytes]:
        self.cohort = tuple(sorted(self._advertisements))
        size = len(self.cohort)
        self.config.rules.check_stage("the cohort", size, size)
        self._quorum = self.config.rules.quorum(size)
        advertisements = tuple(self._advertisements[node] for node in self.cohort)
        self._session = session_id(self._context, advertisements)
        return dict.fromkeys(self.cohort, encode(Cohort(advertisements)))

    def _take_share(self, sender: int, data: bytes) -> None:
        message = decode(Share, data, self.config.limits, sender)
        self._check_in_session(sender, message.session)
        self._check_signed(sender, message)
        peers = [node for node in self.cohort if node != sender]
        if [envelope.receiver for envelope in message.shares] != peers:
            raise MalformedMessage("shares for others than its peers", sender=sender, field="shares")
        if [envelope.receiver for envelope in message.seeds] != [node for node in peers if node > sender]:
            raise MalformedMessage("pair seeds for others than the peers after it", sender=sender, field="seeds")
        envelopes: list[sharing.Envelope] = [*message.shares, *message.seeds]
        for envelope in envelopes:
            if envelope.sender != sender:
                raise MalformedMessage("an envelope in another's name", sender=sender, field="sender")
            if not sharing.verify_envelope(envelope, self._session, self.config.roster):
                raise BadSignature("an envelope with a wrong signature", sender=sender, field="signature")
        self._shares[sender] = message

    def _deliver(self) -> dict[int, bytes]:
        self.sharers = tuple(sorted(self._shares))
        self.config.rules.check_stage("the set of sharers", len(self.sharers), len(self.cohort))
        shares: dict[int, list[SharesEnvelope]] = {node: [] for node in self.cohort}
        seeds: dict[int, list[SeedEnvelope]] = {node: [] for node in self.cohort}
        for sender in self.sharers:
            for envelope in self._shares[sender].shares:
                shares[envelope.receiver].append(envelope)
            for seed_envelope in self._shares[sender].seeds:
                seeds[seed_envelope.receiver].append(seed_envelope)
        return {
            receiver: encode(Delivery(self._session, tuple(shares[receiver]), tuple(seeds[receiver])))
            for receiver in self.sharers
        }

    def _take_masked_input(self, sender: int, data: bytes) -> None:
        message = decode(MaskedInput, data, self.config.limits, sender)
        self._check_in_session(sender, message.session)
        self._check_signed(sender, message)
        field = "vector"
        try:
            vector = encoding.unpack(message.vector, self.config.context.shape)
            field = "tag"
            tag = checksum.decode_tag(message.tag)
        except ValueError as error:
            raise MalformedMessage(str(error), sender=sender, field=field) from error
        np.add(self._running, vector, out=self._running)
        self._running_tag = (self._running_tag + tag) % checksum.PRIME

    def _announce_survivors(self) -> dict[int, bytes]:
        self.survivors = tuple(sorted(self._answered))
        self.config.rules.check_stage("the survivor set", len(self.survivors), len(self.cohort))
        return dict.fromkeys(self.survivors, encode(Survivors(self._session, self.survivors)))

    def _take_agree(self, sender: int, data: bytes) -> None:
        message = decode(Agree, data, self.config.limits, sender)
        self._check_in_session(sender, message.session)
        self._check_signed(sender, message)
        if message.sharers != self.sharers or message.survivors != self.survivors:
            raise WrongSession("signed other sets than were announced", sender=sender, field="survivors")
        self._agreements[sender] = message

    def _publish_agreement(self) -> dict[int, bytes]:
        if len(self._agreements) < self._quorum:
            raise RoundVoid(self.stage.value, f"{len(self._agreements)} agreed where {self._quorum} are needed")
        signers = sorted(self._agreements)
        signatures = tuple(Signature(node, self._agreements[node].signature) for node in signers)
        return dict.fromkeys(signers, encode(Agreement(self._session, signatures)))

    def _take_unmask(self, sender: int, data: bytes) -> None:
        message = decode(Unmask, data, self.config.limits, sender)
        self._check_in_session(sender, message.session)
        self._check_signed(sender, message)
        self._unmasking().check_shares(message)
        self._unmasks[sender] = message

    def _publish_sum(self) -> dict[int, bytes]:
        if len(self._unmasks) < self._quorum:
            raise RoundVoid(self.stage.value, f"{len(self._unmasks)} sent valid shares where {self._quorum} are needed")
        total = MaskedSum(self._view(), self._running, self._running_tag)
        self._unmasking().remove_masks(total, self._unmasks)
        self._packed = encoding.pack(total.vector, self.config.context.shape)
        message = Published(self._session, self._packed, checksum.encode_tag(total.tag))
        return dict.fromkeys(sorted(self._unmasks), encode(message))

    def _take_close(self, sender: int, data: bytes) -> None:
        message = decode(Close, data, self.config.limits, sender)
        self._check_in_session(sender, message.session)
        if self._statement is None:
            raise LocalError("call expect_state before taking closing signatures")
        if message.statement != self._statement.digest():
            raise WrongSession("closed on another statement", sender=sender, field="statement")
        if not valid_signers(self._statement, {sender: message.signature}, self.config.roster):
            raise BadSignature("a wrong signature", sender=sender, field="signature")
        self._closings[sender] = message.signature

    def _view(self) -> bytes:
        return derivations.view_of(self._session, self.sharers)

    def _unmasking(self) -> Unmasking:
        return Unmasking(self._session, self._quorum, self._advertisements, self._shares, self.sharers, self.survivors)

    def _check_in_session(self, sender: int, session: bytes) -> None:
        if session != self._session:
            raise WrongSession("a message of another session", sender=sender, field="session")

    def _check_signed(self, sender: int, message: Advertise | Share | MaskedInput | Agree | Unmask) -> None:
        if message.sender != sender:
            raise MalformedMessage("a message in another's name", sender=sender, field="sender")
        if not self.config.roster[sender].verifies(message.signature, message.TYPE, message.body()):
            raise BadSignature("a wrong signature", sender=sender, field="signature")


_TAKES: dict[Stage, Callable[[Aggregator, int, bytes], None]] = {
    Stage.ADVERTISE: Aggregator._take_advertise,
    Stage.SHARE: Aggregator._take_share,
    Stage.MASKED_INPUT: Aggregator._take_masked_input,
    Stage.AGREE: Aggregator._take_agree,
    Stage.UNMASK: Aggregator._take_unmask,
    Stage.CLOSE: Aggregator._take_close,
}
_ADVANCES: dict[Stage, tuple[Callable[[Aggregator], dict[int, bytes]], Stage]] = {
    Stage.ADVERTISE: (Aggregator._form_cohort, Stage.SHARE),
    Stage.SHARE: (Aggregator._deliver, Stage.MASKED_INPUT),
    Stage.MASKED_INPUT: (Aggregator._announce_survivors, Stage.AGREE),
    Stage.AGREE: (Aggregator._publish_agreement, Stage.UNMASK),
    Stage.UNMASK: (Aggregator._publish_sum, Stage.CLOSE),
}
