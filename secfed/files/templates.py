"""Fills in the TOML templates of files that this program writes for people to edit."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def render(package: str, template: str, **values: Any) -> str:
    """A template of one of our packages, filled in with these values. A missing value is a fault of the program."""
    import jinja2

    environment = jinja2.Environment(  # noqa: S701 - this writes TOML; values are quoted by the `toml` filter
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True
    )
    environment.filters["toml"] = json.dumps  # for ASCII text, and lists of text and numbers, JSON is TOML
    return environment.from_string(files(package).joinpath(template).read_text()).render(**values)
