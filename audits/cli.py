"""`secfed audit`: what researchers and compliance teams run against us.

The command line finds this module through the entry point group `secfed.commands`: `secfed` itself knows no audits.
What is heavy is imported inside the commands, so that `secfed --help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from audits.adversaries.attack import Verdict

app = typer.Typer(
    help="Attack the protocol, and see what stops each attack.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

EXAMPLE = "Example: secfed audit protocol --html attacks.html"
_NAME_WIDTH = 48
_PLACE_WIDTH = 28

AsJson = Annotated[bool, typer.Option("--json", help="The table as one JSON object.")]
HtmlFile = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the table as a page, too.")]


@app.callback()
def _group() -> None:
    """Commands that attack what they are part of."""


@app.command(name="protocol", epilog=EXAMPLE)
def protocol(as_json: AsJson = False, html: HtmlFile = None) -> None:
    """Run every attack on the protocol against real nodes, and against nodes without the check that stops it.

    Ends 0 if all attacks are stopped, each by a line of code without which it succeeds; 1 if not.
    """
    from audits import table
    from audits.adversaries import ATTACKS
    from audits.adversaries.attack import both_ways

    if not as_json:
        typer.echo(f"{'attack':{_NAME_WIDTH}}{'stopped by':{_PLACE_WIDTH}}succeeds without it")
    verdicts: list[Verdict] = []
    for attack in ATTACKS:
        verdicts.append(both_ways(attack))
        if not as_json:
            typer.echo(_row(verdicts[-1]))
    if html is not None:
        table.write_html(html, verdicts)
    if as_json:
        typer.echo(table.as_json(verdicts))
    else:
        typer.echo(table.closing_words(verdicts))
    if not all(verdict.as_it_should_be for verdict in verdicts):
        raise typer.Exit(1)


def _row(verdict: Verdict) -> str:
    place = verdict.stopped_by if verdict.stopped and verdict.stopped_by else "NOT STOPPED"
    weakened = "yes" if verdict.succeeds_when_weakened else "NO: proves nothing"
    return f"{verdict.attack:{_NAME_WIDTH}}{place:{_PLACE_WIDTH}}{weakened}"
