"""The command line: one module per command group, and one place where errors become one line and an exit code.

Exit codes: 0 done; 1 what was checked does not hold; 2 something that a person can mend, said in one line with the
next step, nothing written; 3 a fault of this program, whose details are in a file that the line names.
Heavy libraries are imported by the commands that need them, so that `secfed --help` answers at once.
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
from secfed.cli import data, demo, doctor, federation, node, pausing, run, study, verify
from secfed.errors import Problems, UserError

app = typer.Typer(
    name="secfed",
    help="Hospitals fine-tune a language model together. Patients are protected by differential privacy, updates by "
    "secure aggregation, even if the aggregation server is taken over.",
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
app.add_typer(federation.app, name="federation")
# Rooms above this one add their command groups from outside: nothing here may know them.
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
        if isinstance(stream, io.TextIOWrapper):  # or a file name, or σ on a terminal of another age, would end it
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except Exception as error:
        known = _in_words(error)
        _complain(known or _unforeseen(error), error)
        sys.exit(2 if known else 3)


def _in_words(error: Exception) -> str:
    """The error's text, if it is written for the person at the command line or tells what a disk says; or nothing."""
    if isinstance(error, UserError):
        return str(error)
    from dp.errors import DPError, LedgerCorrupt
    from protocols.errors import LocalError

    if isinstance(error, LedgerCorrupt):
        return str(
            UserError(
                str(error).rstrip("."),
                "After that, say so with `secfed node restored` for each of the node's studies, before it runs",
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
    """The last resort: a line for an error that nobody has thought of, and a file of its own for the details."""
    handle, path = tempfile.mkstemp(prefix="secfed-fault-", suffix=".txt")  # for this user's eyes alone
    with os.fdopen(handle, "w", errors="backslashreplace") as file:
        traceback.print_exception(error, file=file)
    return str(
        UserError(
            f"this is a fault of secfed {__version__} ({type(error).__name__}), and not yours",
            f"Report it with what you ran; the details are in {path}. Look for patient data before you send it on",
        )
    )


def _complain(text: str, error: Exception) -> None:
    """One line; where there are several problems, one for each."""
    problems = error.problems if isinstance(error, Problems) else ()
    if "--json" in sys.argv:
        listed = {"problems": list(problems)} if problems else {}
        print(json.dumps({"event": "error", "text": text} | listed), flush=True)
    elif isinstance(error, Problems) and len(problems) > 1:
        lines = [f"secfed: {error.about}: {len(problems)} problems", *(f"  {each}" for each in problems)]
        print("\n".join([*lines, f"{error.next_step}."]), file=sys.stderr)
    else:
        print(f"secfed: {text}", file=sys.stderr)
