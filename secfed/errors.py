"""Errors for people: one line that says what happened, and the next step."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(Exception):
    """Something a person can fix: a file, a figure, a budget. The command writes nothing and ends with exit code 2.

    Attributes:
        next_step: what to do about it, as an instruction.
    """

    def __init__(self, what: str, next_step: str) -> None:
        self.what = printable(what)
        self.next_step = next_step
        super().__init__(f"{self.what}. {next_step}.")


class Problems(UserError):
    """Several problems that a person can fix together. Its text is one line, as for every error.

    Attributes:
        problems: each of them, in words.
    """

    def __init__(self, about: str, problems: Sequence[str], next_step: str) -> None:
        self.about, self.problems = printable(about), tuple(map(printable, problems))
        count = f"{len(problems)} problems, " if len(problems) > 1 else ""
        super().__init__(f"{about}: {count}{'; '.join(problems)}", next_step)


def printable(text: str) -> str:
    """The text without characters that move the cursor or start a line: parts of it may come from somebody else."""
    return "".join(character if character.isprintable() else "?" for character in text)
