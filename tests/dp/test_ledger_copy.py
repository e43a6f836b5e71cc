"""A ledger's copy holds exactly the ledger, and no byte of it can change unseen."""

from __future__ import annotations

import hmac
import json
from pathlib import Path

import pytest

from dp.budgets import Grant
from dp.entries import LABEL_LENGTH_MAX
from dp.errors import LedgerCorrupt
from dp.ledger import Ledger
from dp.ledger_copy import LINE_BYTES_MAX, read_copy, write_copy

KEY = b"a node's identity"
STUDY, RECEIPT = bytes([1]) * 32, bytes([9]) * 32


def sign(message: bytes) -> bytes:
    return hmac.digest(KEY, message, "sha512")


def check(message: bytes, signature: bytes) -> bool:
    return hmac.compare_digest(sign(message), signature)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path / "ledger.sqlite", sign)
    ledger.grant(Grant("patients", 1000, "10", 1e-5))
    ledger.reserve("patients", STUDY, 8.0, "5e-6", rounds=2)
    ledger.commit(STUDY, 1)
    ledger.release(STUDY, 1, RECEIPT)
    ledger.commit(STUDY, 2)
    return ledger


def test_a_copy_reads_back_as_the_ledgers_own_entries(ledger: Ledger) -> None:
    assert read_copy(write_copy(ledger.entries()), check) == ledger.entries()


def test_the_longest_texts_that_a_grant_may_have_fit_in_a_copy(tmp_path: Path) -> None:
    with Ledger(tmp_path / "long.sqlite", sign) as ledger:
        ledger.grant(Grant("\U0001f3e5" * LABEL_LENGTH_MAX, 1000, "1" * 31, 1e-5, "\U0001f3e5" * LABEL_LENGTH_MAX))
        assert read_copy(write_copy(ledger.entries()), check) == ledger.entries()


def test_an_empty_ledger_is_an_empty_copy() -> None:
    assert write_copy(()) == b""
    assert read_copy(b"", check) == ()


def test_a_changed_byte_anywhere_is_found_in_its_line(ledger: Ledger) -> None:
    data = write_copy(ledger.entries())
    for at in range(len(data)):
        for change in (0x01, 0x20, 0x80):
            damaged = bytearray(data)
            damaged[at] ^= change
            line = data[:at].count(b"\n") + 1
            with pytest.raises(LedgerCorrupt, match=f"^line {line} "):
                read_copy(bytes(damaged), check)


@pytest.mark.parametrize("gone", range(4))
def test_a_line_that_is_gone_breaks_the_one_after_it(ledger: Ledger, gone: int) -> None:
    lines = write_copy(ledger.entries()).splitlines(keepends=True)
    del lines[gone]
    with pytest.raises(LedgerCorrupt, match=f"line {gone + 1} is not what this node signed"):
        read_copy(b"".join(lines), check)


def test_a_last_line_cut_short_is_refused(ledger: Ledger) -> None:
    data = write_copy(ledger.entries())
    for length in range(len(data) - 5, len(data)):
        with pytest.raises(LedgerCorrupt, match="line 5 is no ledger entry"):
            read_copy(data[:length], check)


def signed_line(body: object) -> bytes:
    """A first line with any body, and a signature that is right for it where it could be."""
    from dp.entries import NOTHING_BEFORE, entry_digest

    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    signature = sign(entry_digest(NOTHING_BEFORE, 1, text)).hex()
    return (json.dumps({"body": body, "signature": signature}, sort_keys=True, separators=(",", ":")) + "\n").encode()


GRANT = {
    "delta": "1e-5",
    "disjoint": "",
    "epsilon": "8",
    "id": "00" * 16,
    "kind": "grant",
    "patients": 1000,
    "population": "patients",
    "time": "2030-01-01T00:00:00Z",
}


def test_the_line_that_the_bad_ones_below_are_made_from_is_good() -> None:
    assert read_copy(signed_line(GRANT), check)[0].body == GRANT


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
        {**GRANT, "population": ""},
        {**GRANT, "population": " patients"},
        {**GRANT, "population": "two\nlines"},
        {**GRANT, "population": "p" * 501},
        {**GRANT, "patients": 0},
        {**GRANT, "patients": "1000"},
        {**GRANT, "disjoint": None},
        {**GRANT, "disjoint": " "},
        {key: value for key, value in GRANT.items() if key != "disjoint"},
        {"id": "00", "kind": "withdraw", "round": 1, "study": "00", "time": "2030-01-01T00:00:00Z"},
        {"id": "00", "kind": "withdraw", "study": "", "time": "2030-01-01T00:00:00Z"},
        {"id": "00", "kind": "commit", "round": True, "study": "00", "time": "2030-01-01T00:00:00Z"},
        {"id": "00", "kind": "commit", "round": 0, "study": "00", "time": "2030-01-01T00:00:00Z"},
    ],
)
def test_an_entry_that_no_ledger_writes_is_refused_even_when_it_is_signed(body: object) -> None:
    with pytest.raises(LedgerCorrupt, match="line 1 is no ledger entry"):
        read_copy(signed_line(body), check)


@pytest.mark.parametrize("line", [b"[" * 4000, b" " * (LINE_BYTES_MAX + 1), b"\xff\n", b"\n", b'{"body":NaN}\n'])
def test_hostile_lines_are_refused_in_words(line: bytes) -> None:
    with pytest.raises(LedgerCorrupt, match="line 1 is no ledger entry"):
        read_copy(line, check)
