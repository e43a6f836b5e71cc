"""The findings of a check-up: one line per check, with the fix for each problem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dp.errors import DPError
from secfed.errors import UserError, printable


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    check: str
    """What was checked, in a word or two."""
    state: Literal["ok", "warning", "failed", "not checked"]
    text: str
    """What was found, or why it could not be checked."""
    fix: str = ""
    """The fix; empty if all is well."""


class NotChecked(Exception):
    """The check could not run. The text says why; `fix` says how to make it possible."""

    def __init__(self, text: str, fix: str = "") -> None:
        super().__init__(text)
        self.fix = fix


class Warned(Exception):
    """It works but should be changed. The text says why; `fix` says how."""

    def __init__(self, text: str, fix: str) -> None:
        super().__init__(text)
        self.fix = fix


def look(check: str, at: Callable[[], str], fix: str = "") -> Finding:
    """Run one check.

    Args:
        check: its name.
        at: returns what is well, or raises what is not.
        fix: the fix for errors that name none.
    """
    try:
        return Finding(check, "ok", printable(at()))
    except NotChecked as reason:
        return Finding(check, "not checked", printable(str(reason)), printable(reason.fix))
    except Warned as reason:
        return Finding(check, "warning", printable(str(reason)), printable(reason.fix))
    except UserError as error:
        return Finding(check, "failed", error.what, printable(error.next_step))
    except (DPError, OSError, ImportError) as error:
        return Finding(check, "failed", printable(str(error)), printable(fix))
