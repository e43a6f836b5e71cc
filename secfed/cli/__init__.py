"""The command line: one module per command group, and one place where errors become one line and an exit code.

Exit codes: 0 done; 1 what was checked does not hold; 2 something that a person can mend, said in one line with the
next step, nothing written.
Heavy libraries are imported by the commands that need them, so that `secfed --help` answers at once.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import entry_points
from typing import Annotated

import typer

from secfed import __version__
from secfed.cli import demo, doctor, federation, node, run, study, verify
from secfed.errors import UserError

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
app.add_typer(study.app, name="study")
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
    try:
        app()
    except Exception as error:
        if not _is_users(error):
            raise
        _complain(error)
        sys.exit(2)


def _is_users(error: Exception) -> bool:
    """Whether the error's text is written for the person at the command line."""
    if isinstance(error, UserError):
        return True
    from dp.errors import DPError
    from protocols.errors import LocalError

    return isinstance(error, DPError | LocalError)


def _complain(error: Exception) -> None:
    if "--json" in sys.argv:
        print(json.dumps({"event": "error", "text": str(error)}), flush=True)
    else:
        print(f"secfed: {error}", file=sys.stderr)
