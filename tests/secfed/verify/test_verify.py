"""The offline verifier: a run that nobody touched holds, and whatever is changed is found in its file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from crypto.kdf import digest
from protocols.receipts import Receipt, Statement
from protocols.wire import canonical, decode, encode, fields_of
from secfed.files.whole import json_text
from secfed.models.adapter import loading_arguments
from secfed.reports import folder as run_folder
from secfed.reports.folder import ledger_file, read_first_state, receipt_file, sum_file
from secfed.study.approvals import SIGNATURES
from secfed.study.manifest import load_study
from secfed.verify.folder import verify_folder
from secfed.verify.rounds import check_rounds, start_chain
from tests.secfed.federation import cut, identities
from tests.secfed.run_folders import FROZEN, write_run
from tests.secfed.verify.verified import LIMITS, WEIGHTS, problem_in


def test_a_run_that_nobody_touched_holds(folder: Path) -> None:
    verdict = verify_folder(folder)
    assert verdict.problem is None
    counts = {each.kind: each.counts for each in verdict.checked}
    assert counts["study"] == {"signatures": 5}
    assert counts["receipts"] == {"receipts": 3, "signatures": 14, "sums": 3}
    assert counts["adapter"]["numbers"] == 11
    # 3 x 4 survivors and 2 more where all took part; the void round was committed by all five.
    assert (counts["ledgers"]["commits"], counts["ledgers"]["releases"]) == (19, 14)


def test_a_run_in_which_every_round_was_void_holds_and_says_so(tmp_path: Path) -> None:
    cuts = tuple(cut(node, number, "agree") for node in (0, 1) for number in (1, 2, 3, 4))
    write_run(tmp_path / "out", tmp_path / "work", cuts)
    verdict = verify_folder(tmp_path / "out")
    assert verdict.problem is None
    counts = {each.kind: each.counts for each in verdict.checked}
    assert (counts["receipts"]["receipts"], counts["ledgers"]["releases"]) == (0, 0)
    assert "no round gave a sum" in verdict.checked[1].text


EVIDENCE = [
    run_folder.STUDY,
    SIGNATURES,
    run_folder.FIRST_STATE,
    *(place(number) for number in (1, 2, 4) for place in (receipt_file, sum_file)),
    *(ledger_file(f"hospital-{node}") for node in range(5)),
    WEIGHTS,
]


@pytest.mark.parametrize("place", EVIDENCE)
def test_one_flipped_bit_is_found_in_its_file(folder: Path, place: str) -> None:
    data = (folder / place).read_bytes()
    stride = max(1, len(data) // 40)
    for step, at in enumerate([*range(0, len(data), stride), len(data) - 1]):
        damaged = bytearray(data)
        damaged[at] ^= 1 << step % 8
        (folder / place).write_bytes(damaged)
        found, reason = problem_in(folder)
        assert place.startswith(found), f"byte {at}: {found}: {reason}"


@pytest.mark.parametrize("place", [*EVIDENCE, "summary.json", "report.json", "report.html"])
@pytest.mark.parametrize("change", ["gone", "empty", "cut", "longer"])
def test_a_file_that_is_gone_or_has_another_length_is_found(folder: Path, place: str, change: str) -> None:
    data = (folder / place).read_bytes()
    (folder / place).write_bytes({"empty": b"", "cut": data[: len(data) // 2]}.get(change, data + b"}"))
    if change == "gone":
        (folder / place).unlink()
    if place == "report.html" and change == "longer":
        return  # a page may say more: what it must show is checked
    found, _ = problem_in(folder)
    if place.startswith("receipts") and change == "gone":
        assert found in {receipt_file(number) for number in (1, 2, 4)} | {sum_file(4)}
    else:
        assert found == place


@pytest.mark.parametrize("place", ["receipts/0003.cbor", "receipts/x", "sums/0003.bin", "ledgers/nobody.jsonl"])
def test_a_file_that_belongs_to_nothing_is_found(folder: Path, place: str) -> None:
    shutil.copyfile(folder / sum_file(1), folder / place)
    assert problem_in(folder)[0] == place


def test_a_hostile_name_does_not_reach_the_terminal_as_it_is(folder: Path) -> None:
    (folder / "receipts" / "\x1b[2J\n0001.cbor").touch()
    assert problem_in(folder) == ("receipts/?[2J?0001.cbor", "not a receipt's name")


# Forgeries by somebody who holds keys: every signature is right, and something else is not.


def resigned(folder: Path, number: int, change: Callable[[Statement], dict[str, Any]], signers: int = 5) -> None:
    """Replace a receipt by one of another statement, signed by that many of its survivors."""
    receipt = decode(Receipt, (folder / receipt_file(number)).read_bytes(), LIMITS, None)
    statement = Statement(**{**fields_of(receipt.statement), **change(receipt.statement)})
    keys = identities(5)
    signatures = tuple(
        type(receipt.signatures[0])(node, keys[node].sign("close statement", statement.digest()))
        for node in statement.survivors[:signers]
    )
    (folder / receipt_file(number)).write_bytes(encode(Receipt(statement, signatures)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"quorum": 3}, "quorum"),
        ({"context": bytes(32)}, "context"),
        ({"predecessor": bytes(32)}, "predecessor"),
        ({"study": bytes(32)}, "study"),
        ({"new_state": bytes(32)}, "new_state"),
        ({"round_number": 3}, "round 3"),
        ({"survivors": (0, 1, 2)}, "survivor set"),
        ({"survivors": (0, 1, 2, 3)}, "new_state"),
        ({"cohort": (0, 1, 2, 3)}, "nested"),
    ],
)
def test_a_statement_that_does_not_follow_is_found_however_many_signed(
    folder: Path, change: dict[str, Any], reason: str
) -> None:
    resigned(folder, 1, lambda statement: change)
    place, found = problem_in(folder)
    assert place == receipt_file(1)
    assert reason in found


def test_a_receipt_of_the_first_version_of_the_protocol_is_refused_by_that_name(folder: Path) -> None:
    chain = start_chain(folder, load_study(folder / run_folder.STUDY))
    old = digest("context", canonical(chain.context(1)._values()))  # before the version was its first entry
    resigned(folder, 1, lambda statement: {"context": old})
    place, found = problem_in(folder)
    assert place == receipt_file(1)
    assert "protocol version 1" in found
    assert "run the study again" in found


def test_the_forger_of_these_tests_can_make_a_good_receipt(folder: Path) -> None:
    resigned(folder, 1, lambda statement: {})
    assert verify_folder(folder).problem is None


def test_a_receipt_with_fewer_signatures_than_the_quorum_is_found(folder: Path) -> None:
    resigned(folder, 1, lambda statement: {}, signers=3)
    assert problem_in(folder) == (receipt_file(1), "3 valid signatures where 4 are needed")


def test_every_listed_signature_must_be_valid_not_only_a_quorum(folder: Path) -> None:
    receipt = decode(Receipt, (folder / receipt_file(1)).read_bytes(), LIMITS, None)
    *good, last = receipt.signatures
    assert len(good) == 4
    forged = type(last)(last.signer, good[0].signature)
    (folder / receipt_file(1)).write_bytes(encode(Receipt(receipt.statement, (*good, forged))))
    assert problem_in(folder) == (receipt_file(1), "the signature of hospital-4 is not valid")


def test_a_sum_with_a_padding_bit_is_found_even_if_it_was_signed(folder: Path) -> None:
    from protocols.receipts import sum_digest

    packed = bytearray((folder / sum_file(1)).read_bytes())
    shape_bits = 11 * json.loads((folder / "summary.json").read_text())["rounds"][0]["ring_bits"]
    assert shape_bits % 8, "this study's sums have no padding"
    packed[-1] |= 0x80
    (folder / sum_file(1)).write_bytes(packed)
    resigned(folder, 1, lambda statement: {"sum_digest": sum_digest(bytes(packed))})
    assert problem_in(folder) == (sum_file(1), "a padding bit is not zero")


def test_withheld_last_receipts_are_missed_by_the_ledgers(folder: Path) -> None:
    (folder / receipt_file(4)).unlink()
    (folder / sum_file(4)).unlink()
    chain = verify_folder(folder)
    assert chain.problem is not None
    assert chain.problem.place == WEIGHTS  # the adapter is ahead of the receipts
    vector_before = read_states(folder)
    tensors = load_file(folder / WEIGHTS)
    tensors |= {"a": vector_before[:5], "b": vector_before[5:].reshape(2, 3)}
    save_file(tensors, folder / WEIGHTS)
    assert problem_in(folder) == (receipt_file(4), "is missing: ledgers/hospital-0.jsonl names it")


def read_states(folder: Path) -> Any:
    """The state behind the receipts that are there."""
    from secfed.verify.approval import check_approval

    return check_rounds(folder, check_approval(folder)).chain.state.adapter


def test_a_study_is_signed_by_the_whole_roster(folder: Path) -> None:
    value = json.loads((folder / "signatures.json").read_text())
    value["signatures"]["hospital-3"] = value["signatures"]["hospital-1"]
    (folder / "signatures.json").write_text(json_text(value))
    place, reason = problem_in(folder)
    assert place == "signatures.json"
    assert "hospital-3" in reason


def test_a_first_state_other_than_the_signed_one_is_found(folder: Path) -> None:
    layout, first = read_first_state((folder / "first_state.cbor").read_bytes())
    renamed = [("c" if name == "a" else name, shape) for name, shape in layout]
    (folder / "first_state.cbor").write_bytes(run_folder.first_state_bytes(renamed, first))
    assert problem_in(folder) == ("first_state.cbor", "not the state that receipts/0001.cbor starts from")


@pytest.mark.parametrize(
    "value",
    [
        {"adapter": bytes(8), "layout": [["a", [3]]]},
        {"adapter": bytes(4), "layout": [["a", [True]]]},
        {"adapter": bytes(4), "layout": [[1, [1]]]},
        {"adapter": bytes(4), "layout": [["a"]]},
        {"adapter": b"", "layout": []},
        {"adapter": "none", "layout": []},
        {"layout": []},
        [],
    ],
)
def test_a_first_state_of_another_form_is_refused_in_words(folder: Path, value: object) -> None:
    (folder / "first_state.cbor").write_bytes(canonical(value))
    assert problem_in(folder)[0] == "first_state.cbor"


def test_a_frozen_tensor_must_be_the_one_that_the_study_gives(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors[FROZEN] = -tensors[FROZEN]
    save_file(tensors, folder / WEIGHTS)
    assert problem_in(folder) == (WEIGHTS, f"{FROZEN} is not what the study and the sums lead to")


def test_a_tensor_that_nobody_trained_is_refused(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({**tensors, "more": tensors["a"]}, folder / WEIGHTS)
    assert problem_in(folder) == (WEIGHTS, "more is no frozen tensor of an adapter")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lora_alpha", 5),
        ("r", 4),
        ("use_rslora", True),
        ("alpha_pattern", {"a": 1}),
        ("auto_mapping", None),
        ("auto_mapping", {"id2label": {"0": "yes", "1": "no"}, "label2id": {"yes": 0, "no": 1}, "pad_token_id": 0}),
        ("auto_mapping", {**loading_arguments(("no", "yes"), 0), "trust_remote_code": True}),
        ("auto_mapping", loading_arguments(("no", "yes"), True)),
    ],
)
def test_an_adapter_scaled_or_named_otherwise_than_the_study_says_is_found(
    folder: Path, name: str, value: object
) -> None:
    path = folder / "adapter/adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    place, reason = problem_in(folder)
    assert place == "adapter/adapter_config.json"
    assert reason.startswith(name)


def test_adapter_files_other_than_the_summarys_are_found(folder: Path) -> None:
    path = folder / "adapter/adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "note": "more"}))
    assert problem_in(folder) == ("adapter", "its files are not those that summary.json names")
