"""`secfed verify`: check a run's folder, offline and without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from secfed.verify.folder import Verdict

EXAMPLE = "Example: secfed verify runs/demo"

RunFolder = Annotated[
    Path, typer.Argument(metavar="DIR", help="The folder that `secfed run` or `secfed demo` wrote.", exists=False)
]


def command(
    folder: RunFolder,
    as_json: Annotated[bool, typer.Option("--json", help="The result as one JSON object.")] = False,
) -> None:
    """Check a run: signatures, receipts, sums, the adapter, ledgers, summary and report.

    Exit code 0: everything is right. 1: something is wrong; names the first bad file. 2: DIR is not a run's folder. An
    unfinished run also gives 1: the files that exist are checked, and the missing ones are named. The check cannot tell
    whether such a run will continue, or somebody removed its last files. Needs no network.
    """
    from secfed.verify.folder import verify_folder

    verdict = verify_folder(folder)
    problem = verdict.problem
    if as_json:
        result = {
            "ok": problem is None,
            "finished": None if problem is not None and not verdict.missing else not verdict.missing,
            "missing": list(verdict.missing),
            "checked": {each.kind: dict(each.counts) for each in verdict.checked},
            "problem": None if problem is None else {"place": problem.place, "reason": problem.reason},
        }
        typer.echo(json.dumps(result))
    else:
        for each in verdict.checked:
            typer.echo(f"{each.kind:<10} {each.text}")
        typer.echo(_last_words(verdict))
    if problem is not None:
        raise typer.Exit(1)


def _last_words(verdict: Verdict) -> str:
    if verdict.problem is None:
        return "everything holds"
    if not verdict.missing:
        return f"BROKEN     {verdict.problem}"
    return (
        f"NOT FINISHED  everything above holds; missing: {', '.join(verdict.missing)}. If the run had finished, "
        "somebody removed these files"
    )
