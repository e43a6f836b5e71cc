"""The table of attacks for terminals, machines and readers: the first refusal of each, and what stops it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from audits.adversaries.trials import Search, Verdict
from secfed.errors import UserError

NAME_WIDTH = 56
_PLACE_WIDTH = 28
_ALONE_WIDTH = 7


def heading() -> str:
    """The names of the columns."""
    return (
        f"{'attack':{NAME_WIDTH}}{'first refusal':{_PLACE_WIDTH}}{'alone':{_ALONE_WIDTH}}"
        "what must be removed for it to succeed"
    )


def row(verdict: Verdict) -> str:
    """One attack as a line, with one more line for each rule."""
    first = (verdict.first_refusal or "none") if verdict.stopped else "NOT STOPPED"
    line = f"{verdict.attack:{NAME_WIDTH}}{first:{_PLACE_WIDTH}}{alone(verdict):{_ALONE_WIDTH}}{what_goes(verdict)}"
    if not verdict.stopped:
        return line
    beside = verdict.beside_rules
    joined = "or the rule" if verdict.by_lines.lines is not None else "the rule"
    fails = " (FAILS WITHOUT IT, TOO)" if beside is not None and beside.lines is None else ""
    idle = dict.fromkeys(verdict.idle_rules, " (NOT NEEDED)")
    return "\n".join([line, *(f"    {joined}: {rule}{fails}{idle.get(rule, '')}" for rule in verdict.rules)])


def alone(verdict: Verdict) -> str:
    """Whether removing the first refusal is enough for the attack."""
    return {True: "yes", False: "no", None: "-"}[verdict.sufficient_alone if verdict.stopped else None]


def what_goes(verdict: Verdict) -> str:
    """What must be removed for the attack to succeed, in a few words."""
    if not verdict.stopped:
        return "nothing"
    if verdict.by_lines.lines is not None:
        return "this line" if verdict.sufficient_alone else ", ".join(verdict.by_lines.lines)
    beside = verdict.beside_rules
    if beside is None or beside.lines is None:
        return "NOTHING FOUND: proves nothing"
    return ", ".join(["a rule" if len(verdict.rules) == 1 else f"{len(verdict.rules)} rules", *beside.lines])


def as_json(verdicts: Sequence[Verdict]) -> str:
    """One JSON object with one entry per attack."""
    attacks = [
        {
            "attack": verdict.attack,
            "goal": verdict.goal,
            "stopped": verdict.stopped,
            "first_refusal": verdict.first_refusal,
            "reason": verdict.reason,
            "sufficient_alone": verdict.sufficient_alone,
            "without_lines": _search_as_json(verdict.by_lines),
            "rules": list(verdict.rules),
            "without_rules": None if verdict.beside_rules is None else _search_as_json(verdict.beside_rules),
            "idle_rules": list(verdict.idle_rules),
            "succeeds_without": verdict.succeeds_without,
        }
        for verdict in verdicts
    ]
    return json.dumps({"attacks": attacks}, indent=2)


def _search_as_json(search: Search) -> dict[str, Any]:
    return {
        "succeeds": search.lines is not None,
        "lines": None if search.lines is None else list(search.lines),
        "taken_out": list(search.met),
        "end": search.end,
    }


def closing_words(verdicts: Sequence[Verdict]) -> str:
    """The result, in one line."""
    stopped = [verdict for verdict in verdicts if verdict.stopped]
    single = sum(verdict.sufficient_alone is True for verdict in stopped)
    several = sum(verdict.by_lines.lines is not None for verdict in stopped) - single
    succeed = sum(verdict.succeeds_without for verdict in stopped)
    return (
        f"{len(verdicts)} attacks, {len(stopped)} of them stopped by real nodes: {single} by one line alone, {several} "
        f"by several lines of which each is enough, {len(stopped) - single - several} by a rule although every refusal "
        f"on the way is taken out; {succeed} succeed without what stops them"
    )


def write_html(path: Path, verdicts: Sequence[Verdict]) -> None:
    """Write the table as one self-contained page. Every value is escaped.

    Raises:
        UserError: the file cannot be written.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(
        files("audits.adversaries").joinpath("attacks.html.j2").read_text(encoding="utf-8")
    )
    page = template.render(verdicts=verdicts, summary=closing_words(verdicts), alone=alone, what_goes=what_goes)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"the table cannot be written to {path} ({error.strerror})",
            "Give the path of a file in a folder that exists",
        ) from error
