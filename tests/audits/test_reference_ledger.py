"""A ledger's copy, read by both implementations: the honest one, and each with one defect."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import pytest

from audits.notation import Refused, parse_cbor
from audits.reference_ledger import J, read_copy
from protocols.wire import encode
from secfed.handover import Handover, HandoverRequest, handover, read_handover
from tests.secfed.federation import Federation, make_study

NODE = 2


@pytest.fixture(scope="module")
def handed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Federation, bytes]:
    federation = Federation(make_study(), tmp_path_factory.mktemp("handover"))
    federation.run()
    answer = handover(federation.nodes[NODE], encode(HandoverRequest(federation.study.digest)))
    return federation, parse_cbor(answer)["ledger"]


def test_both_read_what_a_node_hands_over(handed: tuple[Federation, bytes]) -> None:
    federation, copy = handed
    study, key = federation.study, federation.study.identities[NODE].raw
    bodies = read_copy(copy, study.digest, key)
    assert [body["kind"] for body in bodies].count("commit") == study.algorithm.rounds
    assert bodies[-1]["state"] == federation.nodes[NODE].chain.state.digest(federation.nodes[NODE].chain.layout).hex()
    assert read_handover(study, NODE, encode(Handover(NODE, study.digest, copy))) is not None


def _sealed(lines: list[bytes], at: int) -> bytes:
    """An entry that is hidden: the digest of its text in its place."""
    value = json.loads(lines[at])
    content = hashlib.sha256(b"secfed ledger content v2\0" + J(value["body"])).hexdigest()
    return J({"content": content, "signature": value["signature"]}) + b"\n"


DEFECTS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "no head": lambda lines: lines[1:],
    "another study's head": lambda lines: [J({"format": 2, "study": "0" * 64}) + b"\n", *lines[1:]],
    "the end cut off": lambda lines: lines[:-1],
    "an entry gone": lambda lines: [*lines[:3], *lines[4:]],
    "two entries swapped": lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]],
    "an entry hidden": lambda lines: [*lines[:3], _sealed(lines, 3), *lines[4:]],
    "the end hidden": lambda lines: [*lines[:-1], _sealed(lines, -1)],
    "another round": lambda lines: [line.replace(b'"round":2', b'"round":3') for line in lines],
    "a space": lambda lines: [*lines[:-1], lines[-1].replace(b":", b": ", 1)],
    "no newline at the end": lambda lines: [*lines[:-1], lines[-1][:-1]],
    "a line that is none": lambda lines: [*lines[:2], b"{}\n", *lines[2:]],
    "another's ledger": lambda lines: lines,
    "nothing": lambda lines: [],
}


@pytest.mark.parametrize("name", DEFECTS)
def test_both_refuse_a_copy_with_one_defect(name: str, handed: tuple[Federation, bytes]) -> None:
    federation, copy = handed
    study = federation.study
    bent = b"".join(DEFECTS[name](copy.splitlines(keepends=True)))
    node = NODE + (name == "another's ledger")
    with pytest.raises(Refused):
        read_copy(bent, study.digest, study.identities[node].raw)
    assert read_handover(study, node, encode(Handover(node, study.digest, bent))) is None
