"""The command line: one module per command group, and one place that turns errors into one line and an exit code.

Exit codes: 0 success; 1 a check failed; 2 an error that a person can fix: one line with the next step, nothing written;
3 a bug in this program: the line names a file with the details.
Commands import heavy libraries only when they need them, so `secfed --help` answers at once.
"""

from __future__ import annotations

import io
import json
import os
import sqlite3
import sys
import tempfile
import traceback
from importlib.metadata import entry_points
from typing import Annotated

import typer

from secfed import __version__
from secfed.cli import data, demo, doctor, federation, model, node, pausing, run, study, verify
from secfed.errors import Problems, UserError

app = typer.Typer(
    name="secfed",
    help="Sites fine-tune a language model together, for example hospitals. Differential privacy protects patients. "
    "Secure aggregation protects updates, even from a compromised aggregation server.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command(name="demo", epilog=demo.EXAMPLE)(demo.command)
app.command(name="run", epilog=run.EXAMPLE)(run.command)
app.command(name="verify", epilog=verify.EXAMPLE)(verify.command)
app.command(name="doctor", epilog=doctor.EXAMPLE)(doctor.command)
app.add_typer(node.app, name="node")
pausing.add_to(node.app)
app.add_typer(study.app, name="study")
app.add_typer(data.app, name="data")
app.add_typer(model.app, name="model")
app.add_typer(federation.app, name="federation")
# Packages above this one add their command groups as entry points: this one must not import them.
for _group in entry_points(group="secfed.commands"):
    app.add_typer(_group.load(), name=_group.name)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"secfed {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of every command."""


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # else a file name, or σ on an old terminal, would raise
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except Exception as error:
        known = _in_words(error)
        _complain(known or _unforeseen(error), error)
        sys.exit(2 if known else 3)


def _in_words(error: Exception) -> str:
    """The error's text if people can act on it, or an error of the disk; else empty."""
    if isinstance(error, UserError):
        return str(error)
    from dp.errors import DPError, LedgerCorrupt
    from protocols.errors import LocalError

    if isinstance(error, LedgerCorrupt):
        return str(
            UserError(
                str(error).rstrip("."),
                "Then run `secfed node restored` for each of the node's studies, before the node runs again",
            )
        )
    if isinstance(error, DPError | LocalError):
        return f"{str(error).rstrip('.')}."
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return str(
            UserError(f"{where}{error.strerror}", "Check that file, its disk and its permissions, and try again")
        )
    if isinstance(error, sqlite3.OperationalError):
        return str(
            UserError(f"a ledger or store: {error}", "Check the disk and the folder's permissions, and try again")
        )
    return ""


def _unforeseen(error: Exception) -> str:
    """The last resort: one line for an unexpected error, and a file with the details."""
    handle, path = tempfile.mkstemp(prefix="secfed-fault-", suffix=".txt")  # only this user can read it
    with os.fdopen(handle, "w", errors="backslashreplace") as file:
        traceback.print_exception(error, file=file)
    return str(
        UserError(
            f"this is a bug in secfed {__version__} ({type(error).__name__}), not your mistake",
            f"Report it with the command that you ran; details are in {path}. Check that file for patient data first",
        )
    )


def _complain(text: str, error: Exception) -> None:
    """Print one line, or for several problems one line each."""
    problems = error.problems if isinstance(error, Problems) else ()
    if "--json" in sys.argv:
        listed = {"problems": list(problems)} if problems else {}
        print(json.dumps({"event": "error", "text": text} | listed), flush=True)
    elif isinstance(error, Problems) and len(problems) > 1:
        lines = [f"secfed: {error.about}: {len(problems)} problems", *(f"  {each}" for each in problems)]
        print("\n".join([*lines, f"{error.next_step}."]), file=sys.stderr)
    else:
        print(f"secfed: {text}", file=sys.stderr)
