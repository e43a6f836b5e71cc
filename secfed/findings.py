"""What a check-up finds: one line for each thing that was looked at, and what to do where it is not well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dp.errors import DPError
from secfed.errors import UserError, printable


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    """What was looked at, in a word or two."""
    state: Literal["ok", "warning", "failed", "not checked"]
    text: str
    """What was found, or why it could not be checked."""
    fix: str = ""
    """What to do about it; empty where it is well."""


class NotChecked(Exception):
    """It cannot be told whether this is well; the text says why, and `fix` how it could."""

    def __init__(self, text: str, fix: str = "") -> None:
        super().__init__(text)
        self.fix = fix


class Warned(Exception):
    """It works, and should be otherwise; the text says why, and `fix` how."""

    def __init__(self, text: str, fix: str) -> None:
        super().__init__(text)
        self.fix = fix


def look(check: str, at: Callable[[], str], fix: str = "") -> Finding:
    """Run one check.

    Args:
        check: its name.
        at: says what is well, or raises what is not.
        fix: what to do about an error that does not say so itself.
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
