"""`secfed audit`: tools for researchers and compliance teams to attack secfed.

The command line finds this module through the entry point group `secfed.commands`: `secfed` itself does not import
audits. The commands import heavy modules themselves, so that `secfed --help` answers at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from audits.adversaries.trials import Verdict
    from audits.evidence.flips import Flips

app = typer.Typer(
    help="Attack the protocol, the privacy and the verifier, and see what stops each attack.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

EXAMPLE = "Example: secfed audit protocol --html attacks.html"
EXPLORE_EXAMPLE = "Example: secfed audit explore --json > explored.json"
PRIVACY_EXAMPLE = "Example: secfed audit privacy --picture bounds.svg"
EVIDENCE_EXAMPLE = "Example: secfed audit evidence runs/demo --sample 100"
_NAME_WIDTH = 48
_FLIPS_HEADER = f"{'file':{_NAME_WIDTH}}{'bytes':>10}{'flipped':>10}{'found':>10}{'missed':>10}{'misplaced':>12}"

AsJson = Annotated[bool, typer.Option("--json", help="The table as one JSON object.")]
HtmlFile = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the table as a page, too.")]


@app.callback()
def _group() -> None:
    """Commands that attack secfed itself."""


@app.command(name="protocol", epilog=EXAMPLE)
def protocol(as_json: AsJson = False, html: HtmlFile = None) -> None:
    """Run every attack on the protocol against real nodes, and find what stops it by removing that.

    "First refusal" is the line at which an honest node first refuses; "alone" says whether the attack succeeds when
    only this line is removed. Then the audit removes one refusal after another until the attack succeeds. It shows a
    set of lines that is enough: if any one of them is put back, the attack fails again. If an attack fails although all
    refusals that it met are removed, a rule that is not a refusal protects, such as a key derived from the sets that a
    node saw: that rule is removed, too. Takes about half a minute. Exits with 0 if all attacks are stopped, each by
    something without which it succeeds; otherwise with 1.
    """
    from audits.adversaries import ATTACKS, table
    from audits.adversaries.trials import examine
    from secfed.files.whole import check_file

    if html is not None:
        check_file(html)
    if not as_json:
        typer.echo(table.heading())
    verdicts: list[Verdict] = []
    for attack in ATTACKS:
        if as_json:
            typer.echo(f"{len(verdicts) + 1} of {len(ATTACKS)}: {attack.name}", err=True)
        verdicts.append(examine(attack))
        if not as_json:
            typer.echo(table.row(verdicts[-1]))
    if html is not None:
        table.write_html(html, verdicts)
    if as_json:
        typer.echo(table.as_json(verdicts))
    else:
        typer.echo(table.closing_words(verdicts))
    if not all(verdict.as_it_should_be for verdict in verdicts):
        raise typer.Exit(1)


@app.command(name="explore", epilog=EXPLORE_EXAMPLE)
def explore(as_json: AsJson = False) -> None:
    """Visit every state that small rosters of real nodes can reach with any aggregator, on symbolic keys.

    The exploration checks the promises of the SPEC in each state. It does the same with nodes that lack one check,
    until a promise is broken: the table shows the shortest way there. Takes about a quarter of an hour. Exits with 0 if
    real nodes break no promise and every removed check was noticed; otherwise with 1.
    """
    from audits.exploration import report
    from audits.exploration.runs import REAL, REMOVALS

    if not as_json:
        typer.echo(report.heading())
    explored = []
    for one in report.explore_all((*REAL, *REMOVALS), lambda news: typer.echo(news, err=True)):
        explored.append(one)
        if not as_json:
            typer.echo("\n".join(report.rows(one)))
    typer.echo(report.as_json(explored) if as_json else report.closing_words(explored))
    if not all(one.as_it_should_be for one in explored):
        raise typer.Exit(1)


PictureFile = Annotated[Path | None, typer.Option("--picture", metavar="FILE", help="Draw theory and bounds as SVG.")]


@app.command(name="privacy", epilog=PRIVACY_EXAMPLE)
def privacy(as_json: AsJson = False, picture: PictureFile = None) -> None:
    """Look for canary patients in what nodes publish, and derive a lower bound on epsilon from the success.

    The audit covers every way of training, through real nodes and whole rounds: distributed steps, updates of nodes
    that are each a unit, and local steps. It takes the view of the aggregator and its colluders, and compares the bound
    with the epsilon claimed against them. It does the same with builds that each have one defect: too little noise, no
    sampling, or patients who count for more than accounted. Takes two to three minutes. Exits with 0 if no bound for
    the real build is above the claim and every defect shows; otherwise with 1.
    """
    from audits.privacy import report
    from audits.privacy.picture import write_picture
    from secfed.files.whole import check_file

    if picture is not None:
        check_file(picture)
    audited = []
    for audit in report.AUDITS:
        if not as_json:
            typer.echo(report.heading(audit.setting))
        for one in report.audit_all(audit, report.RISK / len(report.AUDITS)):
            audited.append(one)
            if not as_json:
                typer.echo(report.row(one))
    if picture is not None:
        write_picture(picture, audited)
    typer.echo(report.as_json(audited) if as_json else report.closing_words(audited))
    if not all(one.as_it_should_be for one in audited):
        raise typer.Exit(1)


RunFolder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a run that `secfed verify` accepts.")]
EveryN = Annotated[
    int, typer.Option("--sample", metavar="N", min=1, help="A quick look: flip only every N-th byte of each file.")
]


@app.command(name="evidence", epilog=EVIDENCE_EXAMPLE)
def evidence(folder: RunFolder, sample: EveryN = 1, as_json: AsJson = False) -> None:
    """Flip every byte of a run's evidence, one at a time, and see whether `secfed verify` finds each flip.

    It flips copies of the study, the signatures under it, the first state, receipts, sums, the adapter's weights and
    ledgers: nothing in DIR is changed. Exits with 0 if every flip is found and blamed on its file; otherwise with 1.
    """
    from audits.evidence.flips import all_found, as_table, by_file, flip_everything, planned

    results: list[Flips] = []
    for result in by_file(_with_progress(flip_everything(folder, every=sample), lambda: planned(folder, sample))):
        if not as_json:
            typer.echo(_flips_row(result) if results else f"{_FLIPS_HEADER}\n{_flips_row(result)}")
        results.append(result)
    typer.echo(json.dumps(as_table(results), indent=2) if as_json else _flips_closing(results))
    if not all_found(results):
        raise typer.Exit(1)


def _with_progress(stretches: Iterator[Flips], count: Callable[[], int]) -> Iterator[Flips]:
    """The same stretches, with a progress bar on standard error if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f}/{task.total:,.0f}"))
    bar = Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=sys.stdout.isatty(),
    )
    task = None
    with bar:
        for stretch in stretches:
            # Counted after the first stretch: only then is it clear that this is the folder of a run.
            task = bar.add_task("", total=count()) if task is None else task
            bar.update(task, description=stretch.place, advance=stretch.flipped)
            yield stretch


def _flips_row(result: Flips) -> str:
    counts = (result.size, result.flipped, result.found)
    row = f"{result.place:{_NAME_WIDTH}}" + "".join(f"{count:>10,}" for count in counts)
    row += f"{len(result.missed):>10,}{len(result.misplaced):>12,}"
    if result.missed:
        row += f"\n  missed at {_first(str(at) for at in result.missed)}"
    if result.misplaced:
        row += f"\n  blamed on another file: {_first(f'{at} on {named}' for at, named in result.misplaced)}"
    return row


def _first(entries: Iterator[str], most: int = 10) -> str:
    """The first of a long list."""
    shown = list(islice(entries, most + 1))
    return ", ".join(shown[:most]) + (", ..." if len(shown) > most else "")


def _flips_closing(results: list[Flips]) -> str:
    size, flipped, found = (sum(getattr(each, name) for each in results) for name in ("size", "flipped", "found"))
    words = f"{flipped:,} of {size:,} bytes flipped, one at a time: "
    if found == flipped:
        return words + "every flip is found, and blamed on its file"
    missed = sum(len(each.missed) for each in results)
    return words + f"{missed:,} MISSED, {flipped - found - missed:,} BLAMED ON ANOTHER FILE"
