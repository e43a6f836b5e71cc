"""Every patient's id is written one way in a file.

`10001`, `10001.0` and `10001 ` would be three patients: each drawn and clipped by itself, and the person behind them
protected by a third of what is promised.
"""

from __future__ import annotations

import re
import unicodedata

from secfed.models.data.faults import BadRow

_WHOLE_NUMBER = re.compile(r"([0-9]+)[.,]0+")


class Spellings:
    """The ids of one file, as they are met."""

    def __init__(self, column: str) -> None:
        """
        Args:
            column: which one has them, for the error's text.
        """
        self._column = column
        self._first: dict[str, tuple[str, str]] = {}

    def check(self, patient: str, place: str) -> None:
        """Raises BadRow when an earlier row writes this patient's id in another way."""
        spelling, earlier = self._first.setdefault(plain(patient), (patient, place))
        if spelling != patient:
            raise BadRow(
                place,
                f'has the same patient in "{self._column}" as {earlier} in another spelling: '
                "they would count as two patients",
                "Write every patient's id in one way: without blanks around it, and numbers without .0 at their end",
            )


def plain(patient: str) -> str:
    """An id without what spreadsheets and exports add: blanks, invisible marks, wide letters, .0 after a number."""
    if patient.isascii() and patient.isalnum():
        return patient  # nothing of that kind is in it
    visible = "".join(" " if letter.isspace() else letter for letter in unicodedata.normalize("NFKC", patient))
    visible = "".join(letter for letter in visible if unicodedata.category(letter) not in ("Cc", "Cf"))
    number = _WHOLE_NUMBER.fullmatch(" ".join(visible.split()))
    return number[1] if number else " ".join(visible.split())
