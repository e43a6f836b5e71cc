"""A ledger's copy holds exactly the ledger, and no byte of it can change unseen."""

from __future__ import annotations

import hmac
import json
from pathlib import Path

import pytest

from dp.budgets import Grant
from dp.entries import LABEL_LENGTH_MAX, NOTHING_BEFORE, content_digest, entry_digest, entry_text
from dp.errors import LedgerCorrupt
from dp.ledger import Ledger
from dp.ledger_copy import LINE_BYTES_MAX, copy_for, read_copy, write_copy

KEY = b"a node's identity"
STUDY, OTHER, RECEIPT = (bytes([number]) * 32 for number in (1, 2, 9))


def sign(message: bytes) -> bytes:
    return hmac.digest(KEY, message, "sha512")


def check(message: bytes, signature: bytes) -> bool:
    return hmac.compare_digest(sign(message), signature)


FACTS: dict[str, str | int] = {
    "engine": "embedded",
    "process": "1" * 64,
    "home": "2" * 64,
    "machine": "",
    "hold_back": 0,
}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """With an entry of another study, and one after the study was closed."""
    ledger = Ledger(tmp_path / "ledger.sqlite", sign)
    ledger.grant(Grant("patients", 1000, "10", 1e-5))
    ledger.reserve("patients", STUDY, 8.0, "5e-6", rounds=2)
    ledger.run(STUDY, FACTS)
    ledger.commit(STUDY, 1)
    ledger.reserve("patients", OTHER, 1, "1e-7", rounds=2)
    ledger.release(STUDY, 1, RECEIPT)
    ledger.close_study(STUDY, 1, RECEIPT)
    ledger.commit(OTHER, 1)
    return ledger


def copied(ledger: Ledger) -> bytes:
    copy = copy_for(ledger.entries(), STUDY)
    assert copy is not None
    return write_copy(copy)


def test_a_copy_reads_back_as_the_ledgers_own_entries_of_the_study(ledger: Ledger) -> None:
    own, copy = ledger.entries()[:7], read_copy(copied(ledger), STUDY, check)
    assert copy.entries == tuple(entry for entry in own if entry.body.get("study", STUDY.hex()) == STUDY.hex())
    assert [line.digest for line in copy.lines] == [entry.digest for entry in own]
    assert OTHER.hex() not in copied(ledger).decode()


def test_a_study_that_is_not_closed_has_no_copy(ledger: Ledger) -> None:
    assert copy_for(ledger.entries(), OTHER) is None
    assert copy_for(ledger.entries()[:6], STUDY) is None
    assert copy_for((), STUDY) is None


def test_a_study_that_is_closed_again_where_it_stands_changes_nothing(ledger: Ledger) -> None:
    before = copied(ledger)
    ledger.close_study(STUDY, 1, RECEIPT)
    assert copied(ledger) == before
    ledger.commit(STUDY, 2)
    ledger.release(STUDY, 2, OTHER)  # finished late
    ledger.close_study(STUDY, 2, OTHER)
    again = read_copy(copied(ledger), STUDY, check)
    assert [entry.kind for entry in again.entries][-4:] == ["close", "commit", "release", "close"]
    assert (again.closing["round"], again.closing["lines"]) == (2, 8)


def test_how_a_study_is_run_is_written_down_when_it_changes(ledger: Ledger) -> None:
    before = ledger.sequence
    ledger.run(STUDY, FACTS)
    assert ledger.sequence == before
    ledger.run(STUDY, {**FACTS, "hold_back": 60})
    ledger.run(OTHER, FACTS)
    assert ledger.sequence == before + 2


def test_the_longest_texts_that_a_grant_may_have_fit_in_a_copy(tmp_path: Path) -> None:
    with Ledger(tmp_path / "long.sqlite", sign) as ledger:
        name = "\U0001f3e5" * LABEL_LENGTH_MAX
        ledger.grant(Grant(name, 1000, "1" * 31, 1e-5, name))
        ledger.reserve(name, STUDY, "1" * 31, "1e-30", 1)
        ledger.run(STUDY, {**FACTS, "engine": name})
        ledger.close_study(STUDY, 0, RECEIPT)
        assert read_copy(copied(ledger), STUDY, check).entries == ledger.entries()


def test_a_changed_byte_anywhere_is_found_in_its_line(ledger: Ledger) -> None:
    data = copied(ledger)
    for at in range(len(data)):
        for change in (0x01, 0x20, 0x80):
            damaged = bytearray(data)
            damaged[at] ^= change
            line = data[:at].count(b"\n") + 1
            with pytest.raises(LedgerCorrupt, match=f"^line {line} "):
                read_copy(bytes(damaged), STUDY, check)


@pytest.mark.parametrize("gone", range(1, 7))
def test_a_line_that_is_gone_breaks_the_one_after_it(ledger: Ledger, gone: int) -> None:
    lines = copied(ledger).splitlines(keepends=True)
    del lines[gone]
    with pytest.raises(LedgerCorrupt, match=f"line {gone + 1} is not what this node signed"):
        read_copy(b"".join(lines), STUDY, check)


def test_an_end_that_is_gone_is_missed(ledger: Ledger) -> None:
    lines = copied(ledger).splitlines(keepends=True)
    for length in range(1, len(lines)):
        with pytest.raises(LedgerCorrupt, match="its last line does not close the study"):
            read_copy(b"".join(lines[:length]), STUDY, check)


@pytest.mark.parametrize("hidden", [1, 2, 3, 4, 6])
def test_a_line_that_is_hidden_on_the_way_is_missed(ledger: Ledger, hidden: int) -> None:
    """Its digest keeps the chain whole."""
    lines = copied(ledger).decode().splitlines()
    line = json.loads(lines[hidden])
    content = content_digest(entry_text(line["body"])).hex()
    lines[hidden] = entry_text({"content": content, "signature": line["signature"]})
    with pytest.raises(LedgerCorrupt, match="line 8 counts 5 entries of this study, and 4 are shown"):
        read_copy(("\n".join(lines) + "\n").encode(), STUDY, check)


def test_a_line_of_another_study_is_not_to_be_shown(ledger: Ledger) -> None:
    lines = copied(ledger).decode().splitlines()
    other = ledger.entries()[4]
    lines[5] = entry_text({"body": other.body, "signature": other.signature.hex()})
    with pytest.raises(LedgerCorrupt, match="line 6 is about another study"):
        read_copy(("\n".join(lines) + "\n").encode(), STUDY, check)


def test_a_copy_for_another_study_is_refused(ledger: Ledger) -> None:
    with pytest.raises(LedgerCorrupt, match="line 1 is not the head of a copy of format 2 for this study"):
        read_copy(copied(ledger), OTHER, check)
    with pytest.raises(LedgerCorrupt, match="line 1 is not the head"):
        read_copy(b"", STUDY, check)


def test_a_last_line_cut_short_is_refused(ledger: Ledger) -> None:
    data = copied(ledger)
    for length in range(len(data) - 5, len(data)):
        with pytest.raises(LedgerCorrupt, match="line 8 is no ledger entry"):
            read_copy(data[:length], STUDY, check)


HEAD = entry_text({"format": 2, "study": STUDY.hex()}).encode() + b"\n"


def signed_line(body: object) -> bytes:
    """A copy of one line with any body, and a signature that is right for it where it could be."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    signature = sign(entry_digest(NOTHING_BEFORE, 1, content_digest(text))).hex()
    line = json.dumps({"body": body, "signature": signature}, sort_keys=True, separators=(",", ":"))
    return HEAD + line.encode() + b"\n"


GRANT = {
    "delta": "0.00001",
    "disjoint": "",
    "epsilon": "8",
    "id": "00" * 16,
    "kind": "grant",
    "patients": 1000,
    "population": "patients",
    "time": "2030-01-01T00Z",
}


STAMP = {"id": "00", "study": STUDY.hex(), "time": "2030-01-01T00Z"}
RUN = {**STAMP, "kind": "run", **FACTS}
CLOSE = {
    **STAMP,
    "kind": "close",
    "lines": 0,
    "population": "patients",
    "reserved_delta": "0",
    "reserved_epsilon": "0",
    "round": 0,
    "spent_delta": "0",
    "spent_epsilon": "0",
    "state": "00" * 32,
    "studies": 0,
}


def test_the_lines_that_the_bad_ones_below_are_made_from_are_good() -> None:
    for body in (GRANT, RUN):
        with pytest.raises(LedgerCorrupt, match="its last line does not close the study"):
            read_copy(signed_line(body), STUDY, check)
    assert read_copy(signed_line(CLOSE), STUDY, check).closing == CLOSE


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {**GRANT, "kind": "gift"},
        {**GRANT, "kind": ["grant"]},
        {**GRANT, "note": "more"},
        {key: value for key, value in GRANT.items() if key != "id"},
        {**GRANT, "epsilon": 8},
        {**GRANT, "epsilon": "-8"},
        {**GRANT, "epsilon": "NaN"},
        {**GRANT, "epsilon": "1e999999"},
        {**GRANT, "delta": "1"},
        {**GRANT, "id": "AB" * 16},
        {**GRANT, "time": "yesterday"},
        {**GRANT, "time": "2030-01-01T00:00:00Z"},
        {**GRANT, "time": "2030-01-01T24Z"},
        {**GRANT, "time": "2030-1-1T0Z"},
        {**RUN, "machine": "00"},
        {**RUN, "process": ""},
        {**RUN, "hold_back": 0.5},
        {**RUN, "hold_back": -1},
        {**RUN, "engine": ""},
        {**RUN, "epsilon": "1"},
        {**RUN, "hold_back": 2**53},
        {**CLOSE, "studies": 2**53},
        {**CLOSE, "studies": 10**200},
        {**CLOSE, "spent_epsilon": "1_0"},
        {**CLOSE, "spent_epsilon": " 1"},
        {**GRANT, "patients": 2**53},
        {**GRANT, "epsilon": "8_0"},
        {**GRANT, "epsilon": "\uff18"},
        {**GRANT, "epsilon": "1e-5"},
        {**CLOSE, "round": -1},
        {**CLOSE, "state": ""},
        {**CLOSE, "lines": True},
        {**CLOSE, "spent_epsilon": "-1"},
        {**CLOSE, "spent_epsilon": 1},
        {**CLOSE, "spent_epsilon": "NaN"},
        {**CLOSE, "spent_epsilon": "1e60"},
        {**CLOSE, "spent_delta": "1e-71"},
        {**CLOSE, "spent_delta": "0" * 151},
        {key: value for key, value in CLOSE.items() if key != "studies"},
        {**GRANT, "population": ""},
        {**GRANT, "population": " patients"},
        {**GRANT, "population": "two\nlines"},
        {**GRANT, "population": "p" * 501},
        {**GRANT, "patients": 0},
        {**GRANT, "patients": "1000"},
        {**GRANT, "disjoint": None},
        {**GRANT, "disjoint": " "},
        {key: value for key, value in GRANT.items() if key != "disjoint"},
        {"id": "00", "kind": "withdraw", "round": 1, "study": "00", "time": "2030-01-01T00Z"},
        {"id": "00", "kind": "withdraw", "study": "", "time": "2030-01-01T00Z"},
        {"id": "00", "kind": "commit", "round": True, "study": "00", "time": "2030-01-01T00Z"},
        {"id": "00", "kind": "commit", "round": 0, "study": "00", "time": "2030-01-01T00Z"},
    ],
)
def test_an_entry_that_no_ledger_writes_is_refused_even_when_it_is_signed(body: object) -> None:
    with pytest.raises(LedgerCorrupt, match="line 2 is no ledger entry"):
        read_copy(signed_line(body), STUDY, check)


SEALED = b'{"content":"%s","signature":"00"}\n'


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 4000,
        b" " * (LINE_BYTES_MAX + 1),
        b"\xff\n",
        b"\n",
        b'{"body":NaN}\n',
        SEALED % (b"0" * 63),
        SEALED % (b"A" * 64),
    ],
)
def test_hostile_lines_are_refused_in_words(line: bytes) -> None:
    with pytest.raises(LedgerCorrupt, match="line 2 is no ledger entry"):
        read_copy(HEAD + line, STUDY, check)
