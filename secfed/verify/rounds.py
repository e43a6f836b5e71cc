"""Checks the rounds: receipts, sums, and the model's way from its first state to its last.

What follows from the study is computed, not taken from a receipt. `secfed.rounds.chain`, which the nodes themselves
use, recomputes the quorum from the roster and U1, the cohort rules at U1, U2 and U3, the context and the old state, and
the new state from the sum (PROTOCOL, stage 5). Here every listed signature must be valid, not only t of them, and every
byte of a file must be accounted for. To derive the first state takes torch, so it is not derived here; its digest is in
the first receipt's statement, signed by t nodes that derived it themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from protocols import encoding
from protocols.errors import ProtocolError
from protocols.receipts import Receipt, sum_digest, valid_signers, verify_receipt
from protocols.wire import decode, most_map_bytes
from secfed.reports.folder import FIRST_STATE, RECEIPTS, SUMS, read_first_state, receipt_file, sum_file
from secfed.rounds.chain import Chain
from secfed.study.manifest import Study
from secfed.verify.evidence import Broken, file_names, read_file

_RECEIPT_NAME = re.compile(r"[0-9]{4,6}\.cbor")
_SUM_NAME = re.compile(r"[0-9]{4,6}\.bin")
HALF_WRITTEN = re.compile(r"\.[0-9]{4,6}\.(cbor|bin)\.[0-9]+")
"""The name of a receipt or a sum that is still being written."""


@dataclass(frozen=True, slots=True)
class History:
    """What the receipts prove."""

    receipts: Mapping[int, Receipt]
    """Round number -> receipt, in order; a round without a receipt gave no sum."""
    chain: Chain
    """After the last receipt."""
    states: Mapping[int, bytes]
    """Round number -> digest of the state that it led to; 0 -> that of the first state."""

    @property
    def signatures(self) -> int:
        return sum(len(receipt.signatures) for receipt in self.receipts.values())


def check_rounds(folder: Path, study: Study, is_whole: bool = True) -> History:
    """Check every receipt and sum, and follow the model.

    Args:
        folder: of the run.
        study: what the nodes agreed to.
        is_whole: the run is over. Until then the newest sum may be there without its receipt, which is written next.

    Raises:
        Broken: naming the first file that does not hold.
    """
    sums = file_names(folder, SUMS)  # before the receipts: a run that goes on writes more of both meanwhile
    chain = start_chain(folder, study)
    receipts: dict[int, Receipt] = {}
    states = {0: chain.state.digest(chain.layout)}
    for number in round_numbers(folder, is_whole):
        receipts[number] = check_round(folder, chain, number)
        states[number] = chain.state.digest(chain.layout)
    covered = {sum_file(number) for number in receipts}
    newest = max(receipts, default=0)
    bare = [name for name in sums if f"{SUMS}/{name}" not in covered]
    if not is_whole:
        bare = [name for name in bare if not HALF_WRITTEN.fullmatch(name)]
        if len(bare) == 1 and _SUM_NAME.fullmatch(bare[0]) and int(bare[0].removesuffix(".bin")) > newest:
            bare = []
    if bare:
        raise Broken(f"{SUMS}/{bare[0]}", "no receipt covers it")
    return History(receipts, chain, states)


def start_chain(folder: Path, study: Study) -> Chain:
    """The chain before any receipt. Raises Broken if the file of the first state does not hold one."""
    try:
        layout, first = read_first_state(read_file(folder, FIRST_STATE))
        return Chain(study, layout, first)
    except (ValueError, ProtocolError) as error:
        raise Broken(FIRST_STATE, str(error)) from error


def round_numbers(folder: Path, is_whole: bool = True) -> list[int]:
    """The rounds that have a receipt, in order. Raises Broken if another file is among the receipts."""
    numbers = []
    for name in file_names(folder, RECEIPTS):
        if not is_whole and HALF_WRITTEN.fullmatch(name):
            continue
        number = int(name.removesuffix(".cbor")) if _RECEIPT_NAME.fullmatch(name) else 0
        if f"{RECEIPTS}/{name}" != receipt_file(number):
            raise Broken(f"{RECEIPTS}/{name}", "not a receipt's name")
        numbers.append(number)
    return sorted(numbers)


def check_round(folder: Path, chain: Chain, number: int) -> Receipt:
    """Check one receipt and its sum, and move the chain.

    Args:
        folder: of the run.
        chain: after the receipts before this one.
        number: the round.

    Raises:
        Broken: naming the receipt, its sum, or the first state if the first receipt starts from another one.
    """
    place = receipt_file(number)
    try:
        receipt = _read_receipt(folder, chain, number)
        statement = receipt.statement
        # The nodes signed the old state: if it is not ours, the fault is in the first state's file.
        if chain.length == 0 and statement.old_state != chain.state.digest(chain.layout):
            raise Broken(FIRST_STATE, f"not the state that {place} starts from")
        packed = _read_sum(folder, chain, number, statement.sum_digest)
        chain.adopt(receipt, packed)
    except ProtocolError as error:
        raise Broken(place, _without_sender(error)) from error
    return receipt


def _read_receipt(folder: Path, chain: Chain, number: int) -> Receipt:
    """A receipt whose form, place in the chain and every signature hold."""
    study, place = chain.study, receipt_file(number)
    limits = chain.limits
    data = read_file(folder, place, most_map_bytes(Receipt, limits))
    receipt = decode(Receipt, data, limits, None)
    if receipt.statement.round_number != number:
        raise Broken(place, f"it is round {receipt.statement.round_number}'s")
    verify_receipt(
        receipt, study=study.digest, predecessor=chain.head, rules=study.cohort_rules(), roster=study.identities
    )
    signatures = {entry.signer: entry.signature for entry in receipt.signatures}
    for signer in sorted(set(signatures) - valid_signers(receipt.statement, signatures, study.identities)):
        raise Broken(place, f"the signature of {study.roster[signer].name} is not valid")
    return receipt


def _read_sum(folder: Path, chain: Chain, number: int, digest: bytes) -> bytes:
    place = sum_file(number)
    packed = read_file(folder, place, chain.shape.packed_bytes)
    if sum_digest(packed) != digest:
        raise Broken(place, f"not the sum that {receipt_file(number)} covers")
    try:
        encoding.unpack(packed, chain.shape)
    except ValueError as error:
        raise Broken(place, str(error)) from error
    return packed


def _without_sender(error: ProtocolError) -> str:
    """The error's text without the aggregator: a file has no sender to blame."""
    return str(error).removeprefix("the aggregator: ")
