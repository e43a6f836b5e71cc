"""A question to the person at the terminal, before something that cannot be taken back."""

from __future__ import annotations

import sys

import typer

from secfed.errors import UserError


def ask(question: str, what: str, next_step: str) -> bool:
    """The person's answer.

    Args:
        question: ends with a question mark.
        what: what is to be confirmed, for the error's text.
        next_step: what to do where nobody is there.

    Raises:
        UserError: there is no terminal: then nobody has said yes.
    """
    if not sys.stdin.isatty():
        raise UserError(f"nobody is there to confirm {what}", next_step)
    return typer.confirm(question, err=True)
