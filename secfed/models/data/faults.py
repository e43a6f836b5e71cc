"""What is wrong with a data file: every bad row of it at once, by where it stands.

An error names the file, the row and the next step, and never the text of a record, its label or its patient.
"""

from __future__ import annotations

from pathlib import Path

from secfed.errors import Problems, UserError

SHOWN_MAX = 20
"""Bad rows that are listed; the others are counted."""


class DataError(UserError):
    """A data file is missing, malformed, or not what the study describes."""


class BadRows(DataError, Problems):
    """Several rows of a data file are no records."""


class BadRow(Exception):
    """One row is no record.

    Attributes:
        place: where it stands, as in "line 12".
        what: what is wrong with it, as in "is not JSON".
        next_step: what to do about it, as an instruction.
    """

    def __init__(self, place: str, what: str, next_step: str) -> None:
        self.place, self.what, self.next_step = place, what, next_step
        super().__init__(f"{place} {what}")


class Faults:
    """Gathers the bad rows of one file while it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._shown: list[BadRow] = []
        self._steps: dict[str, None] = {}
        self._count = 0

    @property
    def count(self) -> int:
        """How many there are."""
        return self._count

    @property
    def told(self) -> list[str]:
        """The first of them in words, and how many more there are."""
        told = [str(row) for row in self._shown]
        return [*told, f"and {self._count - len(told)} more"] if self._count > len(told) else told

    def add(self, row: BadRow) -> None:
        """One more of them."""
        self._count += 1
        self._steps.setdefault(row.next_step)
        if len(self._shown) < SHOWN_MAX:
            self._shown.append(row.with_traceback(None))  # whose frames hold what the row says

    def check(self) -> None:
        """Raises DataError if there was any: with the first of them, and how many more there are."""
        if not self._shown:
            return
        first = self._shown[0]
        if self._count == 1:
            raise DataError(f"{self._path}, {first}", first.next_step)
        steps = [step if number == 0 else step[:1].lower() + step[1:] for number, step in enumerate(self._steps)]
        raise BadRows(str(self._path), self.told, "; ".join(steps))
