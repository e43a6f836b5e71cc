"""Files that somebody else wrote, or that may not be there: read up to a bound, and what the disk says in words."""

from __future__ import annotations

from pathlib import Path

from secfed.errors import UserError


def read_at_most(path: Path, most: int, what: str, next_step: str) -> bytes:
    """The bytes of a file; one more than `most` where it has more, so that the caller sees it and nobody pays for it.

    Args:
        path: the file.
        most: that the caller takes.
        what: what it is, for the error's text: `the study file`; nothing if its name says it.
        next_step: what helps if it cannot be read.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(most + 1)
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read ({error.strerror})".lstrip(), next_step) from error
