"""The session that a node has open: from a round's opening, through training and unmasking, to the signature.

There is one at a time. It is in memory alone: after a restart there is none, and its round number is used up, because
the store holds it. Whenever anything here fails, the session ends and its secrets are wiped. So a repeated request
never gets an answer that was not written down, and nobody can ask until something goes through.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from protocols.client import Client
from protocols.errors import ProtocolError, RemoteError
from protocols.events import ClientEvent, CohortSeen, InputWanted, Send, SumPublished
from protocols.messages import Opening, Published
from protocols.receipts import Statement
from protocols.session import SessionConfig
from protocols.steps import State
from protocols.wire import decode
from secfed.node import locks
from secfed.node.attempts import Attempts
from secfed.node.contribution import Contribution
from secfed.node.parts import NodeParts
from secfed.node.session_end import SessionEnd
from secfed.node.views import Views
from secfed.rounds.chain import Chain
from secfed.study.manifest import Study


class Session:
    """One node's sessions, one after the other."""

    def __init__(
        self,
        study: Study,
        parts: NodeParts,
        contribution: Contribution,
        clock: Callable[[], float],
        tell_owner: Callable[[str], None],
    ) -> None:
        """
        Args:
            study: the study.
            parts: what the node owns at its start.
            contribution: makes its masked inputs.
            clock: seconds, for the time after which a session ends by itself.
            tell_owner: shows a line to the owner.
        """
        self.client: Client | None = None
        """The last session, open or not; None before the first."""
        self.end = SessionEnd(parts.policy.pace.session_ends_after_seconds, clock, tell_owner)
        self._study = study
        self._keys = study.identities
        self._contribution = contribution
        self._attempts = Attempts(study, parts.store, tell_owner)
        self._views = Views(study, tell_owner)
        self._joined = parts.policy  # the one that the session goes by, whatever is taken up meanwhile

    @property
    def round(self) -> tuple[int, State] | None:
        """The round that the last session is, or was, of, and where that stands."""
        return None if self.client is None else (self.client.config.context.round_number, self.client.state)

    def begin(self, opening: Opening, parts: NodeParts, chain: Chain) -> Client:
        """Join a round, in a new session. Its number is on disk before anything of it leaves.

        Args:
            opening: checked to be the next on this chain.
            parts: what the node owns; its policy is the one that the session goes by.
            chain: the node's.

        Returns:
            The session, which the opening has not reached yet.

        Raises:
            LocalError: this state of the model has had its attempts.
        """
        self._attempts.check(opening.state)
        if self.client is not None:
            self.client.abandon()
            self._views.keep(self.client)
        parts.store.join(self._study.digest, opening.round_number, opening.state)
        self._joined = parts.policy
        seen = parts.store.ledger_sequences()
        self.client = Client(
            SessionConfig(
                self._joined.rules(self._study),
                self._keys,
                chain.context(opening.round_number),
                self._study.magnitude,
            ),
            self._study.index_of(parts.name),
            parts.identity,
            ledger_sequence=parts.ledger.sequence,
            last_ledger_sequences={node: seen.get(key.raw, 0) for node, key in enumerate(self._keys)},
        )
        self.end.begin()
        return self.client

    def act(self, events: tuple[ClientEvent, ...], parts: NodeParts, chain: Chain) -> bytes:
        """Do what the session asks for. If that fails, the session ends: a repeated message must not get an answer."""
        try:
            return self._perform(events, parts, chain)
        except BaseException:
            self.abandon()
            raise

    def close(self, request: bytes, parts: NodeParts, chain: Chain) -> bytes:
        """Compute the next state from the sum, sign the statement, and lock to it on disk before it leaves.

        Args:
            request: the published sum.
            parts: what the node owns.
            chain: the node's.

        Returns:
            The signature.

        Raises:
            RemoteError: the sum is not the one that the survivors' tags cover, or not of this session.
            ProtocolError: likewise; or this node may not sign.
        """
        client = self._live()
        try:
            events = client.receive(request)
        except RemoteError as error:
            self._attempts.sum_refused(error, client)
            raise
        for event in events:
            if isinstance(event, SumPublished):
                packed = decode(Published, request, chain.limits, None).vector
                following = chain.next_state(packed, event.survivors)
                answer = client.close(following.digest(chain.layout))
                try:
                    locks.lock(parts, chain, client.statement, packed)
                except BaseException:
                    client.abandon()  # or a repeated request would get the signature that was not written down
                    raise
                return answer
        return self.act(events, parts, chain)

    def abandon(self) -> None:
        """End the open session, if there is one, and wipe its secrets."""
        if self.client is not None:
            self.client.abandon()

    def end_unless_on(self, head: bytes) -> None:
        """End the session if it stands on another receipt: it would train on, and sign, another state."""
        if self.client is not None and self.client.config.context.predecessor != head:
            self.client.abandon()

    def compare(self, statement: Statement) -> bool:
        """Whether a statement says what this node was shown of that round. Its owner is told where it does not."""
        return self._views.compare(self.client, statement)

    def _perform(self, events: tuple[ClientEvent, ...], parts: NodeParts, chain: Chain) -> bytes:
        answer = b""
        for event in events:
            match event:
                case Send(data):
                    answer = data
                case CohortSeen(_, _, sequences):
                    parts.store.remember_ledger_sequences(
                        {self._keys[node].raw: number for node, number in sequences.items()}
                    )
                case InputWanted():
                    client = self._live()
                    check_open = partial(self.end.check, client)
                    answer = self._contribution.make(client, self._joined, parts, chain, check_open)
                case SumPublished():
                    pass  # `close` computes the next state from the packed bytes
        return answer

    def _live(self) -> Client:
        if self.client is None:
            raise ProtocolError("no session is open at this node")
        return self.client
