"""What a person meets at the command line: one line that says what happened, and one step to take next."""

from __future__ import annotations


class UserError(Exception):
    """Something a person can mend: a file, a figure, a budget. The command ends with exit code 2, nothing written.

    Attributes:
        next_step: what to do about it, as an instruction.
    """

    def __init__(self, what: str, next_step: str) -> None:
        self.what = printable(what)
        self.next_step = next_step
        super().__init__(f"{self.what}. {next_step}.")


def printable(text: str) -> str:
    """The text with nothing in it that moves a terminal's cursor or starts a line: it may hold a stranger's words."""
    return "".join(character if character.isprintable() else "?" for character in text)
