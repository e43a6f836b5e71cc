"""Asks the person at the terminal before an action that cannot be undone."""

from __future__ import annotations

import sys

import typer

from secfed.errors import UserError


def ask(question: str, what: str, next_step: str) -> bool:
    """The person's answer.

    Args:
        question: ends with a question mark.
        what: the thing to confirm, for the error's text.
        next_step: what to do if nobody is there.

    Raises:
        UserError: there is no terminal, so nobody can answer.
    """
    if not sys.stdin.isatty():
        raise UserError(f"there is no terminal on which to confirm {what}", next_step)
    return typer.confirm(question, err=True)
