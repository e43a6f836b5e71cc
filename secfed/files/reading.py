"""Reads files that somebody else wrote, or that may be missing: up to a bound, with an error in words."""

from __future__ import annotations

from pathlib import Path

from secfed.errors import UserError


def read_at_most(path: Path, most: int, what: str, next_step: str) -> bytes:
    """The bytes of a file, but at most `most` + 1: one more than allowed shows the caller that the file is too long.

    Args:
        path: the file.
        most: the most bytes that the caller accepts.
        what: what the file is, for the error's text: `the study file`; empty if its name says so.
        next_step: what to do if it cannot be read.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(most + 1)
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read ({error.strerror})".lstrip(), next_step) from error
