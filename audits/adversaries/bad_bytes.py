"""Oversized and malformed messages, at every stage."""

from __future__ import annotations

from audits.adversaries.attack import Attack
from audits.simulator.world import VICTIM, Conversation, Outcome, World
from protocols.errors import OversizedMessage
from protocols.messages import FROM_AGGREGATOR
from protocols.wire import Message, parse_canonical

MEBIBYTE = 1 << 20


class _BadBytes(Attack):
    """An honest round, except for the bytes of one message to the victim."""

    def __init__(self, kind: type[Message]) -> None:
        self.kind = kind

    def spoil(self, data: bytes) -> bytes:
        """The bytes that the victim gets instead."""
        raise NotImplementedError

    def play(self) -> World:
        """The whole round."""
        world = World()
        talk = Conversation(world)
        talk.tamper = lambda node, data: self.spoil(data) if node == VICTIM and self._is_kind(data) else data
        talk.upload(world.everyone)
        talk.finish(world.everyone)
        return world

    def _is_kind(self, data: bytes) -> bool:
        return bool(parse_canonical(data, None)["type"] == self.kind.TYPE)


class MalformedBytes(_BadBytes):
    """One byte more than the message: two encodings of one message would be two fingerprints of it."""

    goal = "have a node act on bytes that are not the one canonical encoding of a message"

    def __init__(self, kind: type[Message]) -> None:
        super().__init__(kind)
        self.name = f"malformed message: {kind.TYPE}"

    def spoil(self, data: bytes) -> bytes:
        return data + b"\0"

    def run(self) -> Outcome:
        world = self.play()
        return world.outcome(VICTIM in world.totals)


class OversizedBytes(_BadBytes):
    """A mebibyte in place of a few kilobytes."""

    goal = "have a node parse more bytes than any message of the session has"

    def __init__(self, kind: type[Message]) -> None:
        super().__init__(kind)
        self.name = f"oversized message: {kind.TYPE}"

    def spoil(self, data: bytes) -> bytes:
        return data + bytes(MEBIBYTE)

    def run(self) -> Outcome:
        world = self.play()
        return world.outcome(not any(isinstance(refusal.error, OversizedMessage) for refusal in world.refusals))


BAD_BYTES: tuple[Attack, ...] = tuple(
    attack for kind in FROM_AGGREGATOR for attack in (MalformedBytes(kind), OversizedBytes(kind))
)
