"""`secfed run`: run a study with all sites in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secfed.cli.questions import ask
from secfed.errors import UserError
from secfed.models.libraries import settle_libraries

if TYPE_CHECKING:
    from secfed.cli.reporters import Display

EXAMPLE = "Example: secfed run runs/demo/study.toml --out runs/again --yes"

StudyPath = Annotated[
    Path,
    typer.Argument(
        metavar="STUDY",
        help="The study's file. Beside it: sites/NAME/ for each site, and test.jsonl.",
        exists=False,
    ),
]
OutFolder = Annotated[
    Path,
    typer.Option(
        "--out",
        metavar="DIR",
        help="A new folder for the run's files, or the folder of an interrupted run of this study.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Progress as JSON lines; the last line is the summary.")]


Yes = Annotated[bool, typer.Option("--yes", help="Run without asking to confirm the privacy plan.")]


def command(study: StudyPath, out: OutFolder, yes: Yes = False, as_json: AsJson = False) -> None:
    """Run a study with all sites in this process: a simulation with the real protocol.

    First shows the privacy plan on one screen and asks you to confirm; nothing is reserved or written before. If a run
    was stopped or killed, the same command continues it.
    """
    from secfed.cli.reporters import choose_reporter

    reporter = choose_reporter(as_json)
    try:
        run_study(study, out, reporter, as_json, _always if yes else _ask)
    finally:
        reporter.close()


def _always() -> bool:
    return True


def _ask() -> bool:
    return ask(
        "Run this study, and spend this budget?",
        "the privacy plan",
        "Nothing was started. Read the plan, and add --yes to run without the question",
    )


def run_study(
    study: Path, out: Path, reporter: Display, as_json: bool, confirmed: Callable[[], bool] = _always
) -> None:
    """Prepare the study, run it after the privacy plan is confirmed, and print the result."""
    from secfed.rounds.events import Note

    if not as_json:
        reporter.show(Note(f"checking {study}"))
    settle_libraries()
    from secfed.engines.embedded.run import execute, prepare

    try:
        result = execute(prepare(study, out), reporter, confirmed)
    except KeyboardInterrupt:
        raise UserError(
            "the run was stopped",
            f"Its ledgers hold what it spent. `secfed run {study} --out {out}` continues after the last round",
        ) from None
    reporter.close()
    if as_json:
        import json

        typer.echo(json.dumps({"event": "summary", **result.summary}))
    else:
        from secfed.cli.closing import closing_words

        typer.echo(closing_words(result.summary, study, out))
