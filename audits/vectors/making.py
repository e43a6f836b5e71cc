"""How a negative vector is made: an honest message, one change, and the splice that leads from one to the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from audits.reference.notation import C, Message, parse_cbor, sign, unsigned
from audits.vectors import AGGREGATOR, Defect, Session, honest_message
from audits.vectors.splices import Splice
from audits.vectors.transcripts import Scenario

MAIN = "three-nodes-one-leaves-before-masked-input"
"""Nodes 0, 1, 2; node 1 shares and sends no masked input; t = 2."""
SHORT = "three-nodes-one-leaves-before-share"
"""Nodes 0, 1, 2; node 2 does not share; t = 2; b = 60."""
Sessions = Mapping[str, Session]
Change = Callable[[Message], object]


class Maker:
    """Makes defects at one stage of one session, for one receiver."""

    def __init__(
        self,
        sessions: Sessions,
        name: str,
        stage: str,
        receiver: int | str,
        sender: int | str = AGGREGATOR,
    ) -> None:
        self.name, self.stage, self.receiver, self.sender = name, stage, receiver, sender
        self.session = sessions[name]
        self.scenario: Scenario = self.session[0]
        self.honest = honest_message(self.session, stage, receiver, sender)
        self.sid: bytes = parse_cbor(self.session[1].receipt)["statement"]["session"]

    def raw(self, name: str, data: bytes, error: str, fault: int | str | None = None, **rest: Any) -> Defect:
        """The defect that sends these bytes. The sender is at fault unless another is named."""
        change = Splice.between(self.honest, data)
        place = (self.name, self.stage, self.receiver, self.sender, change.at, change.remove, change.insert)
        return Defect(name, *place, error, self.sender if fault is None else fault, **rest)

    def changed(self, name: str, change: Change, error: str, fault: int | str | None = None, **rest: Any) -> Defect:
        """The defect that changes fields."""
        message = parse_cbor(self.honest)
        change(message)
        return self.raw(name, C(message), error, fault, **rest)

    def signed(self, name: str, change: Change, error: str, **rest: Any) -> Defect:
        """The same, signed again by the node that sends it."""

        def change_and_sign(message: Message) -> None:
            change(message)
            self.sign(message, message["type"])

        return self.changed(name, change_and_sign, error, **rest)

    def sign(self, part: Message, label: str, *context: bytes, signer: int | None = None) -> None:
        """Sign a message or an envelope again, in the name of its sender."""
        identity = self.scenario.identities[part["sender"] if signer is None else signer]
        part["signature"] = sign(identity, label, *context, unsigned(part))


def put(**values: Any) -> Change:
    """Give fields other values."""
    return lambda message: message.update(values)


def apply(field: str, function: Callable[[Any], Any]) -> Change:
    """Give a field the function of its value."""
    return lambda message: message.update({field: function(message[field])})


def inside(field: str, at: int, change: Change) -> Change:
    """Change one map of a list."""
    return lambda message: change(message[field][at])


def flip(data: bytes, at: int = 0) -> bytes:
    """Turn over one bit."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
