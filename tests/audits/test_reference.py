"""The second implementation: alone in its code, right on published examples, and the real one's twin byte for byte."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from audits.reference import claims as reference_claims
from audits.reference import end as reference_end
from audits.reference import ledger as reference_ledger
from audits.reference import machines as reference
from audits.reference import node as reference_node
from audits.reference import notation
from audits.reference import receipts as reference_receipts
from audits.reference import schema as reference_schema
from audits.reference import state as reference_state
from audits.reference import study as reference_study
from audits.reference.notation import C, E, Refused, parse_cbor
from audits.vectors import check_random, differences
from audits.vectors.transcripts import ReferenceMachines, Transcript, play, random_scenario, replay_on_real

RANDOM_SESSIONS = 200
BLOCK = 20
RFC_8949_EXAMPLES = [  # appendix A, those that messages may have
    (0, "00"),
    (23, "17"),
    (24, "1818"),
    (1000, "1903e8"),
    (1000000, "1a000f4240"),
    (1000000000000, "1b000000e8d4a51000"),
    (18446744073709551615, "1bffffffffffffffff"),
    (-1, "20"),
    (-1000, "3903e7"),
    (False, "f4"),
    (None, "f6"),
    (bytes.fromhex("01020304"), "4401020304"),
    ("IETF", "6449455446"),
    ([1, [2, 3], [4, 5]], "8301820203820405"),
    (list(range(1, 26)), "98190102030405060708090a0b0c0d0e0f101112131415161718181819"),
    ({"a": 1, "b": [2, 3]}, "a26161016162820203"),
]


MODULES = (
    notation,
    reference,
    reference_claims,
    reference_end,
    reference_ledger,
    reference_node,
    reference_receipts,
    reference_schema,
    reference_state,
    reference_study,
)
STANDARD = {
    "collections",
    "cryptography",
    "dataclasses",
    "decimal",
    "fractions",
    "functools",
    "hashlib",
    "hmac",
    "itertools",
    "json",
    "math",
    "struct",
    "tomllib",
    "typing",
}


@pytest.mark.parametrize("module", MODULES)
def test_the_reference_shares_no_code_with_what_it_checks(module: object) -> None:
    tree = ast.parse(Path(module.__file__).read_text())  # type: ignore[attr-defined]
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    tops = {str(name).split(".")[0] for name in imported} - {"audits"}
    assert tops <= STANDARD
    assert {name for name in imported if str(name).startswith("audits.")} <= {
        "audits.reference",
        *(each.__name__ for each in MODULES),
    }


@pytest.mark.parametrize(("value", "encoded"), RFC_8949_EXAMPLES)
def test_the_references_cbor_is_that_of_the_rfc(value: object, encoded: str) -> None:
    assert C(value).hex() == encoded
    assert parse_cbor(bytes.fromhex(encoded)) == value


def test_the_references_maps_are_sorted_by_encoded_key() -> None:
    assert C({"bb": 1, "a": 2, "c": 3}) == C({"c": 3, "bb": 1, "a": 2}) == bytes.fromhex("a361610261630362626201")


@pytest.mark.parametrize(
    "encoded", ["1817", "9fff", "c101", "f94500", "6161ff", "62c328", "a2616201616101", "61", "", "a1f400"]
)
def test_the_reference_refuses_what_is_not_canonical(encoded: str) -> None:
    with pytest.raises(Refused):
        parse_cbor(bytes.fromhex(encoded))


@pytest.mark.parametrize("length", [32, 48, 64])
def test_the_references_hkdf_is_the_librarys(length: int) -> None:
    key, info = bytes(range(32)), E("label", b"part")
    expected = HKDF(hashes.SHA256(), length, salt=None, info=info).derive(key)
    assert notation.KDF(key, "label", b"part", length=length) == expected


def test_any_quorum_of_shares_rebuilds_a_secret_and_a_wrong_share_among_them_is_got_around() -> None:
    secret = bytes(range(32))
    shares = notation.deal(secret, bytes(32), 3, [0, 2, 3, 6])
    shares[2] = bytes(33)
    assert notation.rebuild(shares, 3, secret, lambda found: found) == secret
    del shares[6]
    with pytest.raises(Refused):
        notation.rebuild(shares, 3, secret, lambda found: found)


@pytest.mark.sweep
@pytest.mark.parametrize("start", range(0, RANDOM_SESSIONS, BLOCK))
def test_reference_and_real_nodes_send_the_same_bytes_in_random_sessions(start: int) -> None:
    for seed in range(start, start + BLOCK):
        assert check_random(seed) == [], f"random session {seed}"


def test_random_sessions_have_dropouts_at_every_stage_and_rings_on_both_sides_of_32_bits() -> None:
    scenarios = [random_scenario(f"random session {seed}") for seed in range(RANDOM_SESSIONS)]
    stages = {stage for scenario in scenarios for stage in scenario.absent.values()}
    assert stages == {"advertise", "share", "masked input", "agree", "unmask", "close"}
    assert {scenario.round.ring_bits > 32 for scenario in scenarios} == {True, False}
    assert {len(scenario.roots) for scenario in scenarios} == {3, 4, 5}


def test_another_root_of_one_node_does_not_go_unseen() -> None:
    scenario = random_scenario("another root")
    recorded = play(scenario, ReferenceMachines(scenario))
    changed = dataclasses.replace(scenario, roots=(bytes(32), *scenario.roots[1:]))
    with pytest.raises(ValueError, match="nothing recorded was sealed"):
        replay_on_real(changed, recorded)


def test_a_difference_in_one_byte_is_found_and_placed() -> None:
    scenario = random_scenario("one byte")
    recorded = play(scenario, ReferenceMachines(scenario))
    node = min(recorded.from_nodes["agree"])
    agree = dict(recorded.from_nodes["agree"])
    agree[node] = agree[node][:-1] + bytes([agree[node][-1] ^ 1])
    values = {field.name: getattr(recorded, field.name) for field in dataclasses.fields(Transcript)}
    changed = Transcript(**values | {"from_nodes": {**recorded.from_nodes, "agree": agree}})
    assert differences(recorded, changed) == [f"message at agree, from nodes: node {node}"]
