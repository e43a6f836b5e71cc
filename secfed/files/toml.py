"""Reads TOML files that somebody else wrote, so that bad bytes cost no more than an error.

The standard library's parser recurses into every bracket, takes quadratic time for the parts of a dotted name, and lets
through a few errors of other types than its own.
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
"""A dotted name with more parts than any of our tables has levels; 500,000 parts take the parser an hour."""


def parse_toml(data: bytes, path: Path) -> dict[str, Any]:
    """The table in a file's bytes.

    Args:
        data: at most one byte more than the largest allowed file.
        path: the file, for the error's text.

    Raises:
        UserError: the file is larger than 1 MiB, or is not TOML that can be read here.
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
        raise UserError(f"{path} is not TOML: {error}", "Correct that place and run the command again") from error
    except RecursionError as error:
        raise UserError(f"{path} is not TOML: nested too deeply", "Write it without nested lists") from error
    except ValueError as error:  # a number with thousands of digits, a day that no month has
        raise UserError(
            f"{path} is not TOML: a number or a date in it is not valid, or a name has more than {_PARTS_MAX} parts",
            "Correct that place and run the command again",
        ) from error


def toml_text(value: str) -> str:
    """A text as TOML writes it, on one line."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_file(values: Mapping[str, Any]) -> str:
    """A whole file: first the keys, then the tables and lists of tables, in their order.

    Args:
        values: JSON values without `null`; all keys are bare keys.
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
    """The same table as JSON, so that types can be checked strictly: JSON has no dates and no infinities.

    Raises:
        UserError: it holds a value that JSON does not have.
    """
    try:
        return json.dumps(values, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} holds a value that is not allowed there{_where(values)}",
            "Use only text, finite numbers, true, false, lists and tables",
        ) from error


def _where(values: Mapping[str, Any]) -> str:
    """The keys at the top level, or in a table there, that have such a value."""
    found = []
    for name, value in values.items():
        for key, each in value.items() if isinstance(value, Mapping) else ((None, value),):
            try:
                json.dumps(each, allow_nan=False)
            except (TypeError, ValueError, RecursionError):
                found.append(f"{name}.{key}" if key is not None else name)
    return f": {', '.join(found)}" if found else ""
