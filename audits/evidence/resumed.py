"""The offline verifier, started at the part that reads one file: the same finding as from the beginning, sooner.

Why it is the same. `secfed.verify.folder` is deterministic, runs its parts in one order and stops at the first that
does not hold. Where one file alone is damaged, every part before the one that reads it sees the bytes of the whole
folder, and ends as it did there; so what the part itself then raises is what the verifier raises. A part that finds
nothing settles nothing: then the whole verifier runs, from its beginning, on the damaged folder. Nothing is ever
counted as unseen, or as found by a later part, on this module's word.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from unittest.mock import patch

from crypto.identity import PublicIdentity
from protocols.receipts import Receipt
from secfed.models.adapter import frozen_start
from secfed.reports.folder import FIRST_STATE, STUDY, ledger_file, receipt_file, sum_file
from secfed.rounds.chain import Chain
from secfed.study.approvals import SIGNATURES
from secfed.verify.adapter import WEIGHTS, check_adapter
from secfed.verify.approval import check_approval
from secfed.verify.evidence import Broken
from secfed.verify.folder import verify_folder
from secfed.verify.ledgers import check_ledger
from secfed.verify.rounds import check_round, check_rounds, round_numbers, start_chain

_REMEMBERED = 4096
"""More than the signatures of any run that is audited byte by byte."""


class ResumedVerifier:
    """Knows what the verifier has found, in a folder that holds, before it comes to each file."""

    def __init__(self, folder: Path) -> None:
        """Raises Broken when the folder does not hold."""
        self._folder = folder
        study = check_approval(folder)
        self._parts: dict[str, Callable[[], object]] = {
            STUDY: partial(check_approval, folder),
            SIGNATURES: partial(check_approval, folder),
            FIRST_STATE: partial(check_rounds, folder, study),
        }
        chain = start_chain(folder, study)
        for number in round_numbers(folder):
            part = partial(self._round, copy.copy(chain), number)
            self._parts |= {receipt_file(number): part, sum_file(number): part}
            check_round(folder, chain, number)
        history = check_rounds(folder, study)
        self._parts[WEIGHTS] = partial(check_adapter, folder, chain)
        for node, entry in enumerate(study.roster):
            self._parts[ledger_file(entry.name)] = partial(check_ledger, folder, study, node, history)

    def fault(self, place: str) -> str | None:
        """The file, or the folder, that the verifier names; None if everything holds.

        Args:
            place: the only file that is not as it was.

        Raises:
            Exception: the verifier itself failed on what it read.
        """
        try:
            self._parts[place]()
        except Broken as problem:
            return problem.place
        found = verify_folder(self._folder).problem
        return None if found is None else found.place

    def _round(self, before: Chain, number: int) -> Receipt:
        # A copy, for a round that holds moves the chain; nothing inside a chain is ever changed in place.
        return check_round(self._folder, copy.copy(before), number)


@contextmanager
def remembered() -> Iterator[None]:
    """While active, two functions of their arguments alone are computed once for the same arguments.

    Whether a signature is an identity's over these bytes, and the frozen start of an adapter's tensor: a damaged byte
    that reaches either is another argument, and is computed.
    """
    once = lru_cache(_REMEMBERED)
    with (
        patch.object(PublicIdentity, "verifies", once(PublicIdentity.verifies)),
        patch("secfed.verify.adapter.frozen_start", once(frozen_start)),
    ):
        yield
