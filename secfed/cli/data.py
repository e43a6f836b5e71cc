"""`secfed data`: a site's records as they are, made ready for a study and looked at. All of it stays here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secfed.cli.options import TextEncoding

if TYPE_CHECKING:
    from secfed.models.data.importing import Imported
    from secfed.node.data_check import DataFigures
    from secfed.node.texts import TextFigures

IMPORT_EXAMPLE = "Example: secfed data import export/ --task task.toml --out records.jsonl"
CHECK_EXAMPLE = "Example: secfed data check records.jsonl --study study.toml"

app = typer.Typer(
    help="A site's records: made ready for a study, and looked at. Nothing of it goes anywhere else.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="The result as one JSON object.")]
_SHOWN_EVERY = 1000


@app.callback()
def _group() -> None:
    """Commands about records."""


@app.command(name="import", epilog=IMPORT_EXAMPLE)
def import_(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="The folder of a FHIR R4 export, or a CSV, Parquet or JSON lines file."),
    ],
    task: Annotated[
        Path, typer.Option("--task", metavar="FILE", help="What a record has: [task], and [fhir] for an export.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The new file of JSON lines.")],
    encoding: TextEncoding = "utf-8",
    as_json: AsJson = False,
) -> None:
    """Write records as JSON lines, and print what was understood of their source.

    All of it is written, or nothing. The file can be read by its owner alone.
    """
    from secfed.models.data.importing import import_records
    from secfed.models.data.task_file import read_task_file

    read = read_task_file(task)
    with _counting("records", as_json) as on_row:
        found = import_records(source, read, out, encoding, on_row)
    if as_json:
        values = {name: getattr(found, name) for name in found.__slots__}
        typer.echo(json.dumps({"file": str(out), **values}))
    else:
        _show(_imported(found, out))


@app.command(name="check", epilog=CHECK_EXAMPLE)
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Records: JSON lines, CSV or Parquet.")],
    study: Annotated[
        Path | None, typer.Option("--study", metavar="FILE", help="The study that they are for, with its base model.")
    ] = None,
    task: Annotated[
        Path | None, typer.Option("--task", metavar="FILE", help="A file with the [task] alone, instead of a study.")
    ] = None,
    base: Annotated[
        Path | None, typer.Option("--base", metavar="DIR", help="The base model whose tokenizer reads them.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option("--max-length", metavar="N", min=4, help="Tokens of a record; the study's by default.")
    ] = None,
    group: Annotated[
        int | None,
        typer.Option(
            "--records-per-patient", metavar="G", min=1, help="The most of one; the study's by default, or 4."
        ),
    ] = None,
    encoding: TextEncoding = "utf-8",
    as_json: AsJson = False,
) -> None:
    """Say what is in a data file: patients, records, labels, lengths, and what looks like a mistake. Never a text.

    Exit code 1 if rows of it are no records.
    """
    from secfed.models.libraries import settle_libraries
    from secfed.node.data_check import examine_data, examine_tokens

    settle_libraries()
    wanted, group, max_length, base = _wanted(study, task, base, max_length, group)
    with _counting("records", as_json) as on_row:
        found = examine_data(file, wanted, group, encoding, on_row)
    tokens = None
    if base is not None and max_length is not None and found.records and not found.bad_count:
        tokens = examine_tokens(file, wanted, base, max_length, encoding)
    if as_json:
        values: dict[str, Any] = {name: getattr(found, name) for name in found.__slots__}
        read = {} if tokens is None else {name: getattr(tokens, name) for name in tokens.__slots__}
        typer.echo(json.dumps({"file": str(file), "records_per_patient_at_most": group, **values, "tokens": read}))
    else:
        _show(_checked(found, tokens, file, group, max_length))
    if found.bad_count:
        raise typer.Exit(1)


def _wanted(
    study: Path | None, task: Path | None, base: Path | None, max_length: int | None, group: int | None
) -> tuple[Any, int, int | None, Path | None]:
    """The task, G, tokens of a record, and the base: from a study, or a task's file, or what was given."""
    from secfed.errors import UserError
    from secfed.models.data.task_file import read_task_file
    from secfed.study.base import resolve_base
    from secfed.study.manifest import load_study

    if study is None and task is not None:
        if (base is None) != (max_length is None):
            raise UserError("a tokenizer's figures need both a base and a length", "Give --base and --max-length")
        return read_task_file(task).task, group or 4, max_length, base
    if study is None or task is not None:
        raise UserError("either a study or a task says what a record is", "Give --study FILE, or --task FILE")
    loaded = load_study(study)
    base = base or resolve_base(loaded.model.base, study.parent)
    most = group or int(getattr(loaded.privacy, "records_per_patient", 4))
    return loaded.task, most, max_length or loaded.model.max_length, base


@contextmanager
def _counting(what: str, as_json: bool) -> Iterator[Callable[[int], None]]:
    """A bar for the person at a terminal, while rows go by; how many there will be, nobody knows before."""
    if as_json or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.completed:,.0f} {task.description}"), BarColumn(), TimeElapsedColumn()
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    bar = progress.add_task(what, total=None)

    def on_row(number: int) -> None:
        if number % _SHOWN_EVERY == 0:
            progress.start()  # not before: a short file needs none
            progress.update(bar, completed=number)

    try:
        yield on_row
    finally:
        if progress.live.is_started:
            progress.stop()


def _imported(found: Imported, out: Path) -> list[str]:
    lines = [f"{out} has {found.records} records of {found.patients} patients; at most {found.most_records} of one"]
    lines += [f"  read          {count} {name}" for name, count in found.resources.items()]
    if found.patients_in_source > found.patients:
        lines.append(f"  patients      {found.patients_in_source - found.patients} more have no record")
    lines += [f"  left out      {count}: {reason}" for reason, count in found.left_out.items()]
    lines += [f"  not read      {count}: {reason}" for reason, count in found.not_read.items()]
    return [*lines, "This is shown only here."]


def _checked(
    found: DataFigures, tokens: TextFigures | None, file: Path, group: int, max_length: int | None
) -> list[str]:
    middle, most, longest = found.characters
    lines = [
        f"{file} has {found.records} records of {found.patients} patients",
        f"  each patient  {_spread(found.records_per_patient)}",
        f"  above {group:<8}{found.above_group} patients: of theirs, at most {group} records count in a step",
        *(f"  label         {_part(count, found.records)} {name}" for name, count in found.labels.items()),
        f"  characters    half of the records have up to {middle}, 95 % up to {most}, the longest {longest}",
        f"  duplicates    {_part(found.duplicates, found.records)} have the text of an earlier one",
    ]
    if tokens is not None:
        lines += [
            f"  cut           {_part(tokens.cut, tokens.records)} are longer than {max_length} tokens",
            f"  unknown       {_part(tokens.unknown, tokens.tokens)} of the tokens are unknown to the base model",
            f"  unreadable    {_part(tokens.unreadable, tokens.records)} have no token that it knows",
        ]
    lines.append(f"  near ids      {found.near_count} patients' ids nearly equal another's, such as 0010 and 10")
    lines += [f"    {each}" for each in found.near]
    lines += [f"  bad rows      {found.bad_count}", *(f"    {each}" for each in found.bad)]
    return [*lines, "This is shown only here."]


def _spread(counts: dict[int, int]) -> str:
    shown = [f"{patients} with {records}" for records, patients in list(counts.items())[:6]]
    return ", ".join(shown) + (f", up to {max(counts)}" if len(counts) > 6 else "") if counts else "none"


def _part(count: int, whole: int) -> str:
    return f"{count} ({100 * count / whole:.1f} %)" if whole else str(count)


def _show(lines: list[str]) -> None:
    from secfed.errors import printable

    typer.echo("\n".join(printable(line) for line in lines))
