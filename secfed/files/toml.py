"""TOML files that somebody else wrote: read so that no bytes in them cost more than an error.

The standard library's parser recurses into every bracket, takes a time that grows with the square of a dotted name's
parts, and lets a few errors through that are not its own.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secfed.errors import UserError

TOML_BYTES_MAX = 1 << 20
_PARTS_MAX = 32
_PART = rb"""(?>[A-Za-z0-9_-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+"""
_LONG_NAME = re.compile(rb"(?<![A-Za-z0-9_-])(?:" + _PART + rb"\.[ \t]*+){%d}" % _PARTS_MAX)
"""A dotted name of more parts than any of our tables lies deep; 500,000 parts take the parser an hour."""


def parse_toml(data: bytes, path: Path) -> dict[str, Any]:
    """The table in a file's bytes.

    Args:
        data: at most one byte more than the largest file that is read.
        path: where they are from, for the error's text.

    Raises:
        UserError: they are more than 1 MiB, or no TOML that can be read here.
    """
    if len(data) > TOML_BYTES_MAX:
        raise UserError(f"the file {path} is larger than 1 MiB", "Check that it is the right file")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not TOML: it is not in UTF-8 (byte {error.start + 1})", "Save it as plain text in UTF-8"
        ) from error
    if text.startswith("\ufeff"):
        raise UserError(
            f"{path} is not TOML: it begins with a byte order mark", "Save it as plain text in UTF-8, without a mark"
        )
    try:
        if _LONG_NAME.search(data):
            raise ValueError(f"a dotted name of more than {_PARTS_MAX} parts")
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not TOML: {error}", "Mend that place and run the command again") from error
    except RecursionError as error:
        raise UserError(f"{path} is not TOML: nested too deeply", "Write it without nested lists") from error
    except ValueError as error:  # a number of thousands of digits, a day that no month has
        raise UserError(
            f"{path} is not TOML: a number or a date in it is none, or a name has more than {_PARTS_MAX} parts",
            "Mend that place and run the command again",
        ) from error


def toml_text(value: str) -> str:
    """A text as TOML writes it, on one line."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_file(values: Mapping[str, Any]) -> str:
    """A whole file: keys first, then each table, then each list of tables, in the order in which they come.

    Args:
        values: what JSON has, but `null`; keys are bare ones.
    """
    lines = _keys(values)
    for name, value in values.items():
        for table in value if _is_tables(value) else [value] if isinstance(value, Mapping) else []:
            lines += ["", f"[[{name}]]" if _is_tables(value) else f"[{name}]", *_keys(table)]
            for inner, deeper in table.items():
                if isinstance(deeper, Mapping):
                    lines += ["", f"[{name}.{inner}]", *_keys(deeper)]
    return "\n".join(lines) + "\n"


def _keys(table: Mapping[str, Any]) -> list[str]:
    plain = ((key, value) for key, value in table.items() if not isinstance(value, Mapping) and not _is_tables(value))
    return [f"{key} = {_value(value)}" for key, value in plain]


def _is_tables(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(isinstance(each, Mapping) for each in value)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return toml_text(value) if isinstance(value, str) else json.dumps(value)


def as_json(values: Mapping[str, Any], path: Path) -> str:
    """The same table as JSON, whose types are checked strictly: it has no dates, and no infinities.

    Raises:
        UserError: it holds a value that JSON does not have.
    """
    try:
        return json.dumps(values, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} holds a value that has no meaning there{_where(values)}",
            "Use text, finite numbers, lists and tables only",
        ) from error


def _where(values: Mapping[str, Any]) -> str:
    """Which keys at the top, or in a table there, have such a value."""
    found = []
    for name, value in values.items():
        for key, each in value.items() if isinstance(value, Mapping) else ((None, value),):
            try:
                json.dumps(each, allow_nan=False)
            except (TypeError, ValueError, RecursionError):
                found.append(f"{name}.{key}" if key is not None else name)
    return f": {', '.join(found)}" if found else ""
