"""The command line, run in this process as a shell would run it."""

from __future__ import annotations

import sys

import pytest

from secfed.cli import main


def exit_code(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """What `secfed` with these arguments ends with."""
    monkeypatch.setattr(sys, "argv", ["secfed", *map(str, arguments)])
    with pytest.raises(SystemExit) as ending:
        main()
    return int(ending.value.code or 0)
