"""What a person meets at the command line: one line that says what happened, and one step to take next."""

from __future__ import annotations


class UserError(Exception):
    """Something a person can mend: a file, a figure, a budget. The command ends with exit code 2, nothing written.

    Attributes:
        next_step: what to do about it, as an instruction.
    """

    def __init__(self, what: str, next_step: str) -> None:
        self.what = what
        self.next_step = next_step
        super().__init__(f"{what}. {next_step}.")
