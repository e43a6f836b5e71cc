"""`secfed demo`: a whole study on one machine, with a real model, real texts and real messages."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secfed.cli.run import AsJson, run_study

if TYPE_CHECKING:
    from secfed.rounds.events import Reporter

EXAMPLE = "Example: secfed demo --out runs/demo"
_MARK = ".secfed-demo"


def command(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The demo's folder; an earlier demo there is replaced.")
    ] = Path("runs/demo"),
    as_json: AsJson = False,
) -> None:
    """Five hospitals fine-tune a language model on diagnosis texts; two of them drop out during the run."""
    from secfed.cli.reporters import choose_reporter

    reporter = choose_reporter(as_json)
    try:
        study = _workspace(out, reporter)
        run_study(study, out, reporter, as_json)
    finally:
        reporter.close()


def _workspace(out: Path, reporter: Reporter) -> Path:
    """A new workspace. Replaces only a folder that an earlier demo made."""
    from secfed.demo.workspace import prepare_demo

    mark = fresh_folder(out, "five hospitals", reporter)
    study = prepare_demo(out)
    mark.touch()
    return study


def fresh_folder(out: Path, who: str, reporter: Reporter) -> Path:
    """Remove an earlier demo, and say what replaces it. Returns the file that marks the folder as a demo's.

    Raises:
        UserError: the folder holds something else.
    """
    from secfed.errors import UserError
    from secfed.rounds.events import Note

    if (out / _MARK).exists():
        shutil.rmtree(out)
    elif out.exists() and any(out.iterdir()):
        raise UserError(f"{out} exists and is not a demo's folder", "Give another folder with --out")
    reporter.show(Note(f"making {who}, their patients and a study in {out}"))
    return out / _MARK
