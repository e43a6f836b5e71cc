"""The table of attacks for machines and for readers: attack, what stopped it, whether it succeeds without that."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import jinja2

from audits.adversaries.attack import Verdict
from secfed.errors import UserError


def as_json(verdicts: Sequence[Verdict]) -> str:
    """One JSON object with one entry per attack."""
    attacks = [
        {
            "attack": verdict.attack,
            "goal": verdict.goal,
            "stopped": verdict.stopped,
            "stopped_by": verdict.stopped_by,
            "succeeds_when_weakened": verdict.succeeds_when_weakened,
        }
        for verdict in verdicts
    ]
    return json.dumps({"attacks": attacks}, indent=2)


def closing_words(verdicts: Sequence[Verdict]) -> str:
    """What it comes to, in one line."""
    stopped = sum(verdict.stopped for verdict in verdicts)
    succeed = sum(verdict.succeeds_when_weakened for verdict in verdicts)
    return (
        f"{len(verdicts)} attacks: {stopped} stopped by real nodes, {succeed} succeed when the check that stops them "
        f"is taken out"
    )


def write_html(path: Path, verdicts: Sequence[Verdict]) -> None:
    """Write the table as one self-contained page. Every value is escaped.

    Raises:
        UserError: the file cannot be written.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(files("audits").joinpath("attacks.html.j2").read_text(encoding="utf-8"))
    page = template.render(verdicts=verdicts, summary=closing_words(verdicts))
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"the table cannot be written to {path} ({error.strerror})",
            "Give the path of a file in a folder that exists",
        ) from error
