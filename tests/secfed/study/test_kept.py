"""What was signed before an upgrade is what it was: studies, receipts and states kept from version 0.1.0, one a mode.

The folders in `kept` were written once, by whole runs of five nodes of which one was away in round 2, and are not to be
made anew. A digest that differs here would strand every running study, and every finished one for its verifier.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from protocols.errors import WrongSession
from protocols.receipts import Receipt
from protocols.wire import Limits, decode, encode
from secfed.rounds.chain import Chain
from secfed.study.manifest import load_study
from tests.secfed.federation import FormulaTrainer

KEPT = Path(__file__).parent / "kept"
MODES = ("local-steps", "shared-step", "nodes-update")


def facts_of(mode: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((KEPT / mode / "facts.json").read_text(encoding="utf-8"))
    return found


def rounds_of(mode: str) -> list[tuple[Receipt, bytes, bytes]]:
    """Each round's receipt, the bytes that it was kept as, and the packed sum."""
    found = []
    for number in (1, 2, 3):
        data = (KEPT / mode / f"receipt-{number}.cbor").read_bytes()
        receipt = decode(Receipt, data, Limits(5, 0), None)
        found.append((receipt, data, (KEPT / mode / f"sum-{number}.bin").read_bytes()))
    return found


def chain_of(mode: str) -> Chain:
    return Chain(load_study(KEPT / mode / "study.toml"), FormulaTrainer.layout, FormulaTrainer.first_state())


@pytest.mark.parametrize("mode", MODES)
def test_a_kept_study_has_the_digest_under_which_it_was_signed(mode: str) -> None:
    chain, facts = chain_of(mode), facts_of(mode)
    assert chain.study.digest.hex() == facts["study"]
    assert chain.state.digest(chain.layout).hex() == facts["first_state"]
    assert {"dimension": chain.shape.dimension, "ring_bits": chain.shape.ring_bits} == facts["shape"]


@pytest.mark.parametrize("mode", MODES)
def test_kept_receipts_and_sums_lead_to_the_kept_state_bit_for_bit(mode: str) -> None:
    chain, facts = chain_of(mode), facts_of(mode)
    for receipt, data, packed in rounds_of(mode):
        assert encode(receipt) == data
        chain.adopt(receipt, packed)
    state = chain.state
    assert chain.head.hex() == facts["head"]
    assert facts["state"] == {
        "digest": state.digest(chain.layout).hex(),
        "adapter": state.adapter.astype("<f4").tobytes().hex(),
        "moments": [moment.astype("<f8").tobytes().hex() for moment in state.moments],
        "clip": None if state.clip is None else state.clip.hex(),
    }


def test_a_kept_receipt_fits_its_own_study_and_sum_alone() -> None:
    (receipt, _, packed), (_, _, other) = rounds_of("local-steps")[:2]
    with pytest.raises(WrongSession):
        chain_of("nodes-update").adopt(receipt, packed)
    with pytest.raises(WrongSession, match="not the sum"):
        chain_of("local-steps").adopt(receipt, other)
