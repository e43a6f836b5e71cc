"""TOML files that somebody else wrote: read so that no bytes in them cost more than an error.

The standard library's parser recurses into every bracket, takes a time that grows with the square of a dotted name's
parts, and lets a few errors through that are not its own.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from secfed.errors import UserError

TOML_BYTES_MAX = 1 << 20
_PARTS_MAX = 32
_PART = rb"""(?>[A-Za-z0-9_-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+"""
_LONG_NAME = re.compile(rb"(?<![A-Za-z0-9_-])(?:" + _PART + rb"\.[ \t]*+){%d}" % _PARTS_MAX)
"""A dotted name of more parts than any of our tables lies deep; 500,000 parts take the parser an hour."""


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a file.

    Raises:
        OSError: the file cannot be read.
        UserError: it is larger than 1 MiB, or no TOML that can be read here.
    """
    with path.open("rb") as file:
        data = file.read(TOML_BYTES_MAX + 1)
    if len(data) > TOML_BYTES_MAX:
        raise UserError(f"the file {path} is larger than 1 MiB", "Check that it is the right file")
    try:
        if _LONG_NAME.search(data):
            raise ValueError(f"a dotted name of more than {_PARTS_MAX} parts")
        return tomllib.loads(data.decode())
    except RecursionError as error:
        raise UserError(f"{path} is not TOML: nested too deeply", "Write it without nested lists") from error
    except ValueError as error:  # a number of thousands of digits is no TOMLDecodeError
        raise UserError(f"{path} is not TOML: {error}", "Mend that place and run the command again") from error
