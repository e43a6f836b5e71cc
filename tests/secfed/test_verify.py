"""The verifier accepts what a run wrote, and names the first file in which one byte, or one fact, is another."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from crypto.identity import Identity
from dp.budgets import Grant
from dp.ledger_copy import write_copy
from protocols.receipts import Receipt, Statement
from protocols.wire import Limits, canonical, decode, encode, fields_of
from secfed import run_folder
from secfed.cli import main
from secfed.run_folder import ledger_file, read_first_state, receipt_file, sum_file
from secfed.sites import LEDGER_LABEL
from secfed.study import load_study
from secfed.verify.evidence import read_file
from secfed.verify.folder import verify_folder
from secfed.verify.ledgers import check_ledger
from secfed.verify.rounds import check_rounds
from tests.secfed.federation import Federation, cut, identities, make_policy
from tests.secfed.run_folders import FROZEN, write_run

WEIGHTS = "adapter/adapter_model.safetensors"
LIMITS = Limits(5, 1 << 20)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Federation]:
    """Four rounds: one of them without hospital-2, and one void after the uploads."""
    base = tmp_path_factory.mktemp("run")
    cuts = (cut(2, 2, "masked input"), cut(0, 3, "agree"), cut(1, 3, "agree"))
    return base / "out", write_run(base / "out", base / "work", cuts)


@pytest.fixture
def folder(made: tuple[Path, Federation], tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(made[0], tmp_path / "run"))


def problem_in(folder: Path) -> tuple[str, str]:
    problem = verify_folder(folder).problem
    assert problem is not None, "nothing was found"
    return problem.place, problem.reason


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
    run_folder.SIGNATURES,
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
    (folder / "signatures.json").write_text(run_folder.json_text(value))
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
    ("name", "value"), [("lora_alpha", 5), ("r", 4), ("use_rslora", True), ("alpha_pattern", {"a": 1})]
)
def test_an_adapter_scaled_otherwise_than_the_study_says_is_found(folder: Path, name: str, value: object) -> None:
    path = folder / "adapter/adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    place, reason = problem_in(folder)
    assert place == "adapter/adapter_config.json"
    assert reason.startswith(name)


def test_adapter_files_other_than_the_summarys_are_found(folder: Path) -> None:
    path = folder / "adapter/adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "note": "more"}))
    assert problem_in(folder) == ("adapter", "its files are not those that summary.json names")


# A node that writes a ledger of its own liking: chain and signatures are right.

BUDGET = make_policy().budget


def rewritten(folder: Path, tmp_path: Path, story: Callable[[Any, bytes], None]) -> tuple[str, str]:
    """What is found when hospital-1's ledger tells this story."""
    from dp.ledger import Ledger

    key: Identity = identities(5)[1]
    study = load_study(folder / "study.toml").digest
    with Ledger(tmp_path / "forged.sqlite", lambda entry: key.sign(LEDGER_LABEL, entry)) as ledger:
        story(ledger, study)
        (folder / ledger_file("hospital-1")).write_bytes(write_copy(ledger.entries()))
    return problem_in(folder)


def receipts_of(folder: Path) -> dict[int, bytes]:
    return {
        number: decode(Receipt, (folder / receipt_file(number)).read_bytes(), LIMITS, None).digest()
        for number in (1, 2, 4)
    }


def rounds(ledger: Any, study: bytes, committed: tuple[int, ...], released: dict[int, bytes]) -> None:
    for number in committed:
        ledger.commit(study, number)
    for number, receipt in released.items():
        ledger.release(study, number, receipt)


def test_a_ledger_that_reserved_less_than_the_study_costs_is_found(folder: Path, tmp_path: Path) -> None:
    def story(ledger: Any, study: bytes) -> None:
        ledger.grant(BUDGET.grant)
        ledger.reserve(BUDGET.population, study, 7, 1e-5, 4)
        rounds(ledger, study, (1, 2, 3, 4), receipts_of(folder))

    place, reason = rewritten(folder, tmp_path, story)
    assert (place, reason) == (ledger_file("hospital-1"), "what it reserved is not what the study asks for")


def test_a_ledger_without_a_reservation_is_found(folder: Path, tmp_path: Path) -> None:
    place, reason = rewritten(folder, tmp_path, lambda ledger, study: ledger.grant(BUDGET.grant))
    assert place == ledger_file("hospital-1")
    assert "reserved exactly once" in reason


def test_an_update_in_a_sum_that_was_never_committed_is_found(folder: Path, tmp_path: Path) -> None:
    def story(ledger: Any, study: bytes) -> None:
        ledger.grant(BUDGET.grant)
        ledger.reserve(BUDGET.population, study, 8, 1e-5, 4)
        rounds(ledger, study, (1, 2), {})

    place, reason = rewritten(folder, tmp_path, story)
    assert (place, reason) == (
        ledger_file("hospital-1"),
        "its update is in the sum of round 4, which it never committed",
    )


def test_a_round_beyond_the_study_is_found(folder: Path, tmp_path: Path) -> None:
    def story(ledger: Any, study: bytes) -> None:
        ledger.grant(BUDGET.grant)
        ledger.reserve(BUDGET.population, study, 8, 1e-5, 4)
        rounds(ledger, study, (1, 2, 5, 4), {})

    place, reason = rewritten(folder, tmp_path, story)
    assert place == ledger_file("hospital-1")
    assert "line 5 commits round 5" in reason


def test_a_release_with_another_receipt_is_found(folder: Path, tmp_path: Path) -> None:
    def story(ledger: Any, study: bytes) -> None:
        ledger.grant(BUDGET.grant)
        ledger.reserve(BUDGET.population, study, 8, 1e-5, 4)
        rounds(ledger, study, (1, 2, 3, 4), {1: bytes(32)})

    place, reason = rewritten(folder, tmp_path, story)
    assert (place, reason) == (ledger_file("hospital-1"), "line 7 releases round 1 with another receipt")


OTHER_STUDY = bytes([7]) * 32
STAMPED = {"epsilon": "1", "delta": "1e-7"}


def forged(ledger: Any, body: dict[str, Any]) -> None:
    """An entry that no ledger would have taken."""
    ledger._append(ledger.entries(), body)


def took(ledger: Any, study: bytes) -> None:
    """What a ledger takes; each forgery below follows as line 4."""
    ledger.grant(Grant("adults", 1000, 10, 1e-5))
    ledger.reserve("adults", study, 8, 5e-6, 4)
    ledger.commit(study, 1)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"kind": "withdraw", "study": None}, "withdraws a study that has committed a round"),
        ({"kind": "withdraw", "study": OTHER_STUDY.hex()}, "is a withdraw of a study that holds no reservation"),
        (
            {"kind": "commit", "study": OTHER_STUDY.hex(), "round": 1},
            "is a commit of a study that holds no reservation",
        ),
        (
            {"kind": "grant", "population": "adults", "patients": 1000, "disjoint": "", **STAMPED},
            "grants a budget a second time",
        ),
        (
            {"kind": "grant", "population": "more", "patients": 1000, "disjoint": "", **STAMPED},
            "grants what cannot be granted: this ledger's budget is for adults",
        ),
        (
            {"kind": "grant", "population": "more", "patients": 10**7, "disjoint": "they say", **STAMPED},
            "grants what cannot be granted: a delta of 1E-7 is above 1/(10 N)",
        ),
        (
            {"kind": "grant", "population": "more", "patients": 10**200, "disjoint": "they say", **STAMPED},
            "grants what cannot be granted: a population has 1 to",
        ),
        (
            {"kind": "reserve", "population": "more", "study": OTHER_STUDY.hex(), "rounds": 1, **STAMPED},
            "reserves what cannot be reserved: no privacy budget is granted to more",
        ),
        (
            {
                "kind": "reserve",
                "population": "adults",
                "study": OTHER_STUDY.hex(),
                "rounds": 1,
                **STAMPED,
                "epsilon": "2.5",
            },
            "reserves what cannot be reserved: this study asks for epsilon 2.5",
        ),
    ],
)
def test_an_entry_that_frees_or_moves_what_is_spent_is_found_though_its_node_signed_it(
    folder: Path, tmp_path: Path, body: dict[str, Any], reason: str
) -> None:
    def story(ledger: Any, study: bytes) -> None:
        took(ledger, study)
        forged(ledger, {**body, "study": study.hex()} if body.get("study", "") is None else body)

    place, found = rewritten(folder, tmp_path, story)
    assert place == ledger_file("hospital-1")
    assert found.startswith(f"line 4 {reason}")


def test_a_withdrawn_reservation_pays_for_nothing(folder: Path, tmp_path: Path) -> None:
    def story(ledger: Any, study: bytes) -> None:
        ledger.grant(BUDGET.grant)
        ledger.reserve(BUDGET.population, study, 8, 1e-5, 4)
        ledger.withdraw(study)
        forged(ledger, {"kind": "commit", "study": study.hex(), "round": 1})

    place, found = rewritten(folder, tmp_path, story)
    assert (place, found) == (ledger_file("hospital-1"), "line 4 is a commit of a study that holds no reservation")


def test_the_account_of_a_study_is_that_of_its_population(folder: Path, tmp_path: Path) -> None:
    """A second population that is attested is no fault, and what was withdrawn is not spent."""

    def story(ledger: Any, study: bytes) -> None:
        ledger.grant(Grant("adults", 1000, 20, 1e-5))
        ledger.grant(Grant(BUDGET.population, 10_000, 10, 1e-5, "The registry: nobody is in both"))
        ledger.reserve("adults", OTHER_STUDY, 20, 1e-5, 4)
        ledger.withdraw(OTHER_STUDY)
        ledger.reserve(BUDGET.population, study, 8, 1e-5, 4)
        rounds(ledger, study, (1, 2, 3, 4), receipts_of(folder))

    assert rewritten(folder, tmp_path, story)[0] == "summary.json"  # which tells of the ledger that was there before
    study = load_study(folder / "study.toml")
    history = check_rounds(folder, study)
    account = check_ledger(folder, study, 1, history.receipts)
    assert (account.population, account.balance.left_epsilon, account.committed) == ("test", 2, {1, 2, 3, 4})


def test_a_ledger_that_was_cut_after_an_entry_is_missed_by_the_summary(folder: Path) -> None:
    path = folder / ledger_file("hospital-1")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    place, reason = problem_in(folder)
    assert place == "summary.json"
    assert reason.startswith("ledger_sequence")


def test_a_ledger_signed_by_another_node_is_found(folder: Path) -> None:
    shutil.copyfile(folder / ledger_file("hospital-3"), folder / ledger_file("hospital-1"))
    place, reason = problem_in(folder)
    assert place == ledger_file("hospital-1")
    assert reason.startswith("line 1 is not what this node signed")


# What is claimed about the run.


def edited(folder: Path, place: str, *path: str | int, value: object) -> tuple[str, str]:
    claims = json.loads((folder / place).read_text())
    inner = claims
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    (folder / place).write_text(json.dumps(claims))
    return problem_in(folder)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("study_digest",), "00" * 32),
        (("state_digest",), "00" * 32),
        (("rounds", 0, "receipt_digest"), "00" * 32),
        (("rounds", 0, "sum_digest"), "00" * 32),
        (("rounds", 1, "survivors"), ["hospital-0"]),
        (("rounds", 1, "quorum"), 5),
        (("rounds", 1, "number"), 1),
        (("rounds", 0, "attempt_void"), True),
        (("rounds", 2, "survivors"), ["hospital-0"]),
        (("rounds", 0), "none"),
        (("rounds",), {}),
        (("hospitals", 2, "ledger_head"), "00" * 32),
        (("hospitals", 2, "population"), "other patients"),
        (("hospitals", 2, "rounds_committed"), 1),
        (("hospitals", 2, "left_epsilon"), 8.0),
        (("hospitals", 2, "epsilon"), 8.1),
        (("hospitals", 2, "epsilon"), float("nan")),
        (("hospitals", 2, "state_digest"), "00" * 32),
        (("hospitals",), []),
    ],
)
def test_a_summary_that_says_something_else_is_found(folder: Path, path: tuple[str | int, ...], value: object) -> None:
    assert edited(folder, "summary.json", *path, value=value)[0] == "summary.json"


def test_a_summary_that_leaves_a_round_out_is_found(folder: Path) -> None:
    rounds_told = json.loads((folder / "summary.json").read_text())["rounds"]
    place, reason = edited(folder, "summary.json", "rounds", value=rounds_told[1:])
    assert (place, reason) == ("summary.json", "round 1 has a receipt and is not told of")


# The command.


def run_cli(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["secfed", "verify", *arguments])
    with pytest.raises(SystemExit) as ending:
        main()
    return int(ending.value.code or 0)


def test_the_command_says_what_it_checked_and_ends_0(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(monkeypatch, str(folder)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["study", "receipts", "adapter", "ledgers", "summary", "report"]
    assert lines[-1] == "everything holds"


def test_the_command_names_the_broken_file_and_ends_1(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / sum_file(2)).write_bytes(bytes(40))
    assert run_cli(monkeypatch, str(folder)) == 1
    assert "BROKEN     sums/0002.bin: not the sum" in capsys.readouterr().out
    assert run_cli(monkeypatch, str(folder), "--json") == 1
    result = json.loads(capsys.readouterr().out)
    assert result["ok"] is False
    assert list(result["checked"]) == ["study"]
    assert result["problem"] == {"place": "sums/0002.bin", "reason": "not the sum that receipts/0002.cbor covers"}


@pytest.mark.parametrize("content", [None, "empty", "a study that never ran"])
def test_a_folder_without_a_run_ends_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    folder = tmp_path / "folder"
    if content is not None:
        folder.mkdir()
    if content == "a study that never ran":
        (folder / "study.toml").write_text("format = 1")
    assert run_cli(monkeypatch, str(folder)) == 2
    assert "is not the folder of a run" in capsys.readouterr().err


def test_the_verifier_needs_no_machine_learning_library_and_no_network(folder: Path) -> None:
    """In a fresh interpreter, as a shell starts it; imports are refused as if nothing were installed. An accountant is
    needed, for epsilon is computed again."""
    code = (
        "import sys\n"
        "class NotInstalled:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'transformers', 'opacus', 'peft'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, NotInstalled())\n"
        "import socket\n"
        "socket.socket.connect = socket.getaddrinfo = None\n"
        f"sys.argv = ['secfed', 'verify', {str(folder)!r}]\n"
        "from secfed.cli import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("everything holds\n")


def make_void(folder: Path, layout: list[Any], numbers: int) -> None:
    """No receipts: nobody but the folder's author vouches for the first state."""
    for part in ("receipts", "sums"):
        shutil.rmtree(folder / part)
    state = {"adapter": bytes(4 * numbers), "layout": layout}
    (folder / run_folder.FIRST_STATE).write_bytes(canonical(state))


@pytest.mark.parametrize("shape", [[1] * 65 + [11], [2**64 - 1] * 50_000, [2**63]], ids=["axes", "many", "large"])
def test_a_first_state_of_impossible_shape_is_refused_at_once(folder: Path, shape: list[int]) -> None:
    make_void(folder, [["a", shape]], 11)
    assert problem_in(folder) == (run_folder.FIRST_STATE, "not a name and a shape in its layout")


def test_a_frozen_tensor_of_more_rows_than_the_rank_is_not_computed_again(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({**tensors, "more.lora_A.weight": np.zeros((1500, 1500), np.float32)}, folder / WEIGHTS)
    assert problem_in(folder) == (WEIGHTS, "more.lora_A.weight has more rows than the adapter's rank, 2")


def test_reading_a_small_file_makes_no_room_for_the_largest(folder: Path) -> None:
    tracemalloc.start()
    try:
        read_file(folder, run_folder.SUMMARY)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("place", ["summary.json", "first_state.cbor", "receipts/0001.cbor"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(folder: Path, place: str) -> None:
    (folder / place).unlink()
    os.mkfifo(folder / place)
    assert problem_in(folder) == (place, "not a plain file")
