"""What a person meets at the command line: one line that says what happened, and one step to take next."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(Exception):
    """Something a person can mend: a file, a figure, a budget. The command ends with exit code 2, nothing written.

    Attributes:
        next_step: what to do about it, as an instruction.
    """

    def __init__(self, what: str, next_step: str) -> None:
        self.what = printable(what)
        self.next_step = next_step
        super().__init__(f"{self.what}. {next_step}.")


class Problems(UserError):
    """Several things that a person can mend in one go; as text one line, like every other.

    Attributes:
        problems: each of them, in words.
    """

    def __init__(self, about: str, problems: Sequence[str], next_step: str) -> None:
        self.about, self.problems = printable(about), tuple(map(printable, problems))
        count = f"{len(problems)} problems, " if len(problems) > 1 else ""
        super().__init__(f"{about}: {count}{'; '.join(problems)}", next_step)


def printable(text: str) -> str:
    """The text with nothing in it that moves a terminal's cursor or starts a line: it may hold a stranger's words."""
    return "".join(character if character.isprintable() else "?" for character in text)
