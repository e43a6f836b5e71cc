"""Second implementation of a node's ledger, and a reader of its copy: "Attendance and handover" in section 9 of
protocols/SPEC.md.

It stores only bodies: the chain and its signatures follow from them when the ledger is handed over.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from audits.reference.notation import need, sign, verify

KINDS_OF_A_STUDY = ("reserve", "withdraw", "run", "commit", "release", "close")
Body = dict[str, Any]
GRANT = {"population": "patients", "patients": 1000, "epsilon": "8.0", "delta": "0.00001", "disjoint": ""}
FACTS = {"engine": "embedded", "process": "1" * 64, "home": "2" * 64, "machine": "3" * 64, "hold_back": 0}


@dataclass(frozen=True)
class Site:
    """The decisions of a node's owner, and facts about its machine."""

    stamp: Callable[[int], Mapping[str, str]]
    """`id` and `time` of the entry with this number."""
    minimum: int = 0
    """The smallest cohort."""
    honest: int = 2
    """The smallest number of honest survivors."""
    file: bytes = b""
    """The study's file, as approved."""
    grant: Mapping[str, Any] = field(default_factory=lambda: GRANT)
    cost: tuple[str, str] = ("8.0", "0.00001")
    """What the study reserves of it: epsilon and delta."""
    facts: Mapping[str, Any] = field(default_factory=lambda: FACTS)
    """Of a `run` entry."""


class Ledger:
    """The entries that one node writes for one study, after existing ones."""

    def __init__(self, bodies: list[Body], study: bytes, rounds: int, site: Site) -> None:
        """
        Args:
            bodies: the entries of an earlier process; empty if the study is not approved yet.
            study: the study's digest.
            rounds: of the study.
            site: whose ledger it is.
        """
        self.bodies, self.study, self.site = bodies, study.hex(), site
        if not bodies:
            self._append("grant", **site.grant)
            epsilon, delta = site.cost
            of: Body = {"population": site.grant["population"], "study": self.study}
            self._append("reserve", **of, epsilon=epsilon, delta=delta, rounds=rounds)

    def rounds(self, kind: str) -> set[int]:
        """Those with a `commit`, or a `release`."""
        return {body["round"] for body in self._own() if body["kind"] == kind}

    @property
    def closed(self) -> bool:
        return any(body["kind"] == "close" for body in self._own())

    def commit(self, number: int) -> None:
        need(number not in self.rounds("commit"), "the ledger has committed this round")
        self._say_how()
        self._append("commit", study=self.study, round=number)

    def release(self, number: int, receipt: bytes) -> None:
        self._append("release", study=self.study, round=number, receipt=receipt.hex())

    def close(self, number: int, state: bytes) -> None:
        """Record that the node joins no further round, once for each round and state."""
        self._say_how()
        place: Body = {"kind": "close", "study": self.study, "round": number, "state": state.hex()}
        last, population = self._own()[-1], self.site.grant["population"]
        if {name: last.get(name) for name in place} != place:
            shown = sum(self._is_shown(body) for body in self.bodies)
            self._append(**place, population=population, lines=shown, **self._totals(population))

    def copy(self, identity: bytes) -> bytes:
        """The copy to hand over, up to the last `close`."""
        last = max(at for at, body in enumerate(self.bodies) if body["kind"] == "close" and body["study"] == self.study)
        before, lines = bytes(32), [J({"format": 2, "study": self.study})]
        for at, body in enumerate(self.bodies[: last + 1], start=1):
            content = _digest("content", J(body))
            before = _digest("entry", before + at.to_bytes(8, "big") + content)
            what = {"body": body} if self._is_shown(body) else {"content": content.hex()}
            lines.append(J({**what, "signature": sign(identity, "ledger entry", before).hex()}))
        return b"".join(line + b"\n" for line in lines)

    def _own(self) -> list[Body]:
        return [body for body in self.bodies if body.get("study") == self.study]

    def _is_shown(self, body: Body) -> bool:
        grant = body["kind"] == "grant" and body["population"] == self.site.grant["population"]
        return grant or body.get("study") == self.study

    def _say_how(self) -> None:
        runs = [body for body in self._own() if body["kind"] == "run"]
        if not runs or any(runs[-1][name] != fact for name, fact in self.site.facts.items()):
            self._append("run", study=self.study, **self.site.facts)

    def _totals(self, population: str) -> Body:
        def studies(kind: str) -> set[str]:
            return {body["study"] for body in self.bodies if body["kind"] == kind}

        reserved = [body for body in self.bodies if body["kind"] == "reserve" and body["population"] == population]
        held = [body for body in reserved if body["study"] not in studies("withdraw")]
        spent = [body for body in held if body["study"] in studies("commit")]
        return {"studies": len(held)} | {
            f"{name}_{unit}": str(sum((Decimal(body[unit]) for body in some), Decimal(0)))
            for name, some in (("reserved", held), ("spent", spent))
            for unit in ("epsilon", "delta")
        }

    def _append(self, kind: str, **fields: Any) -> None:
        self.bodies.append({"kind": kind, **fields, **self.site.stamp(len(self.bodies) + 1)})


def J(value: Any) -> bytes:
    """JSON in ASCII with sorted keys and no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def read_copy(data: bytes, study: bytes, identity: bytes) -> list[dict[str, Any]]:
    """The bodies that a copy shows, from first to last. Refuses anything but this node's ledger with this study.

    Args:
        data: the copy.
        study: the study's digest.
        identity: the node's public key.
    """
    head, *lines = data.splitlines(keepends=True) or [b""]
    need(head == J({"format": 2, "study": study.hex()}) + b"\n", "not the head of a copy for this study")
    before = bytes(32)
    bodies: list[dict[str, Any]] = []
    for at, line in enumerate(lines, start=1):
        value = _parse(line)
        content = _octets(value["content"], 32) if "content" in value else _digest("content", J(value["body"]))
        before = _digest("entry", before + at.to_bytes(8, "big") + content)
        verify(identity, _octets(value["signature"], 64), "ledger entry", before)
        if "body" in value:
            need(value["body"]["kind"] != "close" or value["body"]["lines"] == len(bodies), "an entry is hidden")
            bodies.append(value["body"])
    need(bool(bodies) and b'"body"' in lines[-1] and bodies[-1]["kind"] == "close", "the end is missing")
    for body in bodies:
        own = body["kind"] in KINDS_OF_A_STUDY and body["study"] == study.hex()
        grant = body["kind"] == "grant" and body["population"] == bodies[-1]["population"]
        need(own or grant, "an entry of another study")
    return bodies


def _parse(line: bytes) -> dict[str, Any]:
    try:
        value: Any = json.loads(line)
    except ValueError:
        value = None
    need(type(value) is dict and set(value) in ({"body", "signature"}, {"content", "signature"}), "no entry")
    need(J(value) + b"\n" == line, "not in canonical form")
    checked: dict[str, Any] = value
    return checked


def _octets(digits: Any, length: int) -> bytes:
    need(type(digits) is str and len(digits) == 2 * length and set(digits) <= set("0123456789abcdef"), "no digits")
    return bytes.fromhex(digits)


def _digest(what: str, data: bytes) -> bytes:
    return hashlib.sha256(f"secfed ledger {what} v2".encode() + b"\0" + data).digest()
