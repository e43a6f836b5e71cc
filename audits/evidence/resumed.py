"""The offline verifier, started at the part that reads one file: the same finding as from the beginning, but sooner.

Why it is the same. `secfed.verify.folder` is deterministic, runs its parts in one order and stops at the first that
does not hold. If only one file is damaged, every part before the one that reads it sees undamaged bytes, and ends as it
did there; so the error that the part itself then raises is the verifier's. If the part finds nothing, that decides
nothing: then the whole verifier runs, from its beginning, on the damaged folder. So this module alone never counts a
flip as unnoticed, or as found by a later part.
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
"""More than the number of signatures of any run that is audited byte by byte."""


class ResumedVerifier:
    """Stores the verifier's state before each file, in a folder that holds."""

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
            place: the only changed file.

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
        # A copy, because a round that holds moves the chain; nothing inside a chain is ever changed in place.
        return check_round(self._folder, copy.copy(before), number)


@contextmanager
def remembered() -> Iterator[None]:
    """While active, two pure functions are computed only once for the same arguments.

    Whether a signature is an identity's over these bytes, and the frozen start of an adapter's tensor: a damaged byte
    that reaches either is another argument, and is computed.
    """
    once = lru_cache(_REMEMBERED)
    with (
        patch.object(PublicIdentity, "verifies", once(PublicIdentity.verifies)),
        patch("secfed.verify.adapter.frozen_start", once(frozen_start)),
    ):
        yield
