"""What the coordinator remembers across a crash: which rounds it opened, how they ended, every receipt with its sum.

The files are in a run's folder: `journal.jsonl`, one line for each event, and the receipts and sums themselves. A
round's number is on disk before anything of the round is sent, and a receipt before anybody gets it. The journal lets a
study go on where it was. It protects nobody: nodes have their own memory, and accept nothing from here unchecked.

A crash can cut only the last line short, and that line is dropped. A sum without a receipt is dropped as well: the
nodes that signed it offer it again. A round that was opened and has no ending is void, or is finished late.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from protocols.errors import FaultKind, ProtocolError
from protocols.receipts import Receipt
from protocols.wire import Limits, decode, encode, most_map_bytes
from secfed.aggregator.records import RoundRecord
from secfed.errors import UserError
from secfed.files.figures import whole_minutes
from secfed.files.whole import READABLE, append_line, write_whole
from secfed.reports.folder import JOURNAL, RECEIPTS, SUMS, receipt_file, sum_file
from secfed.rounds.channel import Link
from secfed.rounds.faults import Claim
from secfed.study.manifest import Study

_STOPPED = "the aggregator stopped"
_PAIRS = ("bytes_up", "bytes_down")
_NAMES = ("cohort", "survivors")


@dataclass(frozen=True, slots=True)
class Past:
    """The point from which a restarted coordinator goes on."""

    opened: int
    """The highest round number that was ever opened; 0 before the first."""
    links: tuple[Link, ...]
    """Every receipt, with its sum, in order."""
    records: tuple[RoundRecord, ...]
    """One for each round up to `opened`."""


def is_begun(folder: Path) -> bool:
    """Whether a round was ever opened in this run's folder: its journal says so, or there is a receipt."""
    path = folder / JOURNAL
    return (path.exists() and path.stat().st_size > 0) or any((folder / RECEIPTS).glob("*.cbor"))


class Journal:
    """The coordinator's memory of one study, in a run's folder. Every write is on disk before the call returns."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name in (RECEIPTS, SUMS):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def open_round(self, number: int) -> None:
        """Note a number before anything of its round is sent: no number is ever opened twice."""
        self._append({"opened": number})

    def close_round(self, record: RoundRecord) -> None:
        """Note how a round ended. If it is finished late, this is called again, and the last record counts."""
        self._append({"closed": _as_json(record)})

    def keep(self, receipt: Receipt, packed: bytes) -> None:
        """Write a receipt, after the sum that it covers."""
        number = receipt.statement.round_number
        write_whole(self._folder / sum_file(number), packed, READABLE)
        write_whole(self._folder / receipt_file(number), encode(receipt), READABLE)

    def read(self, study: Study, packed_bytes: int) -> Past:
        """Read what happened before. Removes sums without a receipt, and files that a crash left half written.

        Args:
            study: whose rounds these are.
            packed_bytes: the size of a sum.

        Raises:
            UserError: a file is not as this class wrote it, or is missing.
        """
        opened, closed = self._read_lines()
        self._check_complete(closed.values())
        links = {}
        limits = Limits(len(study.roster), packed_bytes)
        for place in (RECEIPTS, SUMS):
            for path in (self._folder / place).glob(".*"):  # `write_whole` had not finished it
                path.unlink()
        for path in sorted((self._folder / SUMS).glob("*.bin")):
            receipt_path = self._folder / RECEIPTS / f"{path.stem}.cbor"
            if not receipt_path.exists():
                path.unlink()
                continue
            link = _read_link(receipt_path, path, limits)
            links[link.receipt.statement.round_number] = link
        opened = max([opened, *links])
        records = tuple(
            _record_of(number, closed.get(number), links.get(number), study) for number in range(1, opened + 1)
        )
        return Past(opened, tuple(links[number] for number in sorted(links)), records)

    def _check_complete(self, closed: Iterable[RoundRecord]) -> None:
        """Every round that is noted as finished must have its sum and its receipt: the nodes build on both."""
        for record in closed:
            for name in () if record.void else (sum_file(record.number), receipt_file(record.number)):
                if not (self._folder / name).exists():
                    raise UserError(
                        f"{self._folder / name} is missing: {JOURNAL} names it, and every later round builds on it",
                        "Restore this folder from a copy; the sites have every receipt, too",
                    )

    def _append(self, line: Mapping[str, Any]) -> None:
        append_line(self._folder / JOURNAL, json.dumps(line))

    def _read_lines(self) -> tuple[int, dict[int, RoundRecord]]:
        """The highest number opened, and the last record of each round."""
        path = self._folder / JOURNAL
        opened, closed = 0, {}
        for line in path.read_bytes().split(b"\n") if path.exists() else []:
            try:
                said = json.loads(line) if line else {}
                opened = max(opened, int(said.get("opened", 0)))
                if "closed" in said:
                    record = _from_json(said["closed"])
                    closed[record.number] = record
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # cut short: the receipts show what it would have said, or it is lost with the round
        return opened, closed


def _read_link(receipt_path: Path, sum_path: Path, limits: Limits) -> Link:
    """A receipt and its sum. The chain checks them when it adopts them."""
    most = most_map_bytes(Receipt, limits)
    try:
        with receipt_path.open("rb") as file:
            receipt = decode(Receipt, file.read(most + 1), limits, None)
        with sum_path.open("rb") as file:
            return Link(receipt, file.read(limits.packed_bytes + 1))
    except ProtocolError as error:
        raise UserError(
            f"{receipt_path} was changed, or is not a receipt ({error})",
            "Restore this folder from a copy; the sites have every receipt, too",
        ) from error


def _record_of(number: int, record: RoundRecord | None, link: Link | None, study: Study) -> RoundRecord:
    """A round's record: the one that was written, or else one from its receipt, or else one of a void round."""
    if record is not None and (link is None or not record.void):
        return record
    void = RoundRecord(number, True, f"{_STOPPED} during this round", (), (), (), 0, 0.0, {}, {}, "", "", ())
    if link is None:
        return record or void
    late = (record or void).finished_late(link.receipt.statement, study)
    return late if record is not None else replace(late, reason=f"{_STOPPED} once its receipt was written")


def _as_json(record: RoundRecord) -> dict[str, Any]:
    value = {name: getattr(record, name) for name in RoundRecord.__slots__}
    value["seconds"] = whole_minutes(record.seconds)  # the file is handed on with the run's folder
    value["faults"] = [
        [each.round_number, each.accused, each.by, int(each.kind), each.signature.hex()] for each in record.faults
    ]
    return value


def _from_json(value: Any) -> RoundRecord:
    said = dict(value)
    for name in _NAMES:
        said[name] = tuple(map(str, said[name]))
    for name in _PAIRS:
        said[name] = {str(node): int(size) for node, size in said[name].items()}
    said["dropped"] = tuple((str(name), str(stage)) for name, stage in said["dropped"])
    said["faults"] = tuple(
        Claim(number, accused, by, FaultKind(kind), bytes.fromhex(signature))
        for number, accused, by, kind, signature in said["faults"]
    )
    return RoundRecord(**said)
