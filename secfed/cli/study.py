"""`secfed study`: write a new study, show it, compare two, and collect the sites' approvals."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

INIT_EXAMPLE = "Example: secfed study init icd-chapters --model model --sites 4 --patients 3000"
ROSTER_EXAMPLE = "Example: secfed study roster add study.toml harbour-clinic $IDENTITY --patients 2000"
SIGN_EXAMPLE = "Example: secfed study sign study.toml approvals/*.json"
SHOW_EXAMPLE = "Example: secfed study show study.toml"
DIFF_EXAMPLE = "Example: secfed study diff last-year/study.toml study.toml"

app = typer.Typer(
    help="A study: what is trained, how privately, by whom. Write one, show it, compare it, collect its approvals.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
roster_app = typer.Typer(help="The sites of a study.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(roster_app, name="roster")


class Mode(Enum):
    """A study's modes, as the command line takes them."""

    DISTRIBUTED = "distributed"
    LOCAL = "local"


StudyPath = Annotated[Path, typer.Argument(metavar="STUDY", help="The study's file.")]
AsJson = Annotated[bool, typer.Option("--json", help="The result as one JSON object.")]


@app.callback()
def _group() -> None:
    """Commands for the organiser of a study."""


@roster_app.callback()
def _roster_group() -> None:
    """Commands for a study's roster."""


@app.command(name="init", epilog=INIT_EXAMPLE)
def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The study's name: small letters, digits, hyphens.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The new file.")] = Path("study.toml"),
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="DIR", help="The base model's folder; its digest and layers are filled in."),
    ] = None,
    sites: Annotated[int, typer.Option("--sites", metavar="N", help="How many sites will take part.")] = 5,
    patients: Annotated[
        int, typer.Option("--patients", metavar="N", help="Roughly how many patients they have in total.")
    ] = 8000,
    mode: Annotated[Mode, typer.Option("--mode", help="How the promise is kept: see docs/own-study.md.")] = (
        Mode.DISTRIBUTED
    ),
    as_json: AsJson = False,
) -> None:
    """Write a commented study.toml to fill in, with values that fit your number of sites and patients.

    Fill in the places marked TO DO: the labels, the roster, and without --model the model's digest and layers. Until
    then the study is refused. The noise is the smallest that keeps the promise.
    """
    from secfed.models.libraries import settle_libraries
    from secfed.study.draft import write_draft
    from secfed.study.draft_figures import Known

    settle_libraries()
    write_draft(out, name, model, Known(sites, patients, mode.value))
    if as_json:
        _print({"study": name, "file": str(out)})
    else:
        typer.echo(f"fill in {out} where it says TO DO; then check it with `secfed study show {out}`")


@roster_app.command(name="add", epilog=ROSTER_EXAMPLE)
def add(
    study: StudyPath,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The site's name.")],
    identity: Annotated[str, typer.Argument(metavar="IDENTITY", help="64 digits, as `secfed node init` prints them.")],
    patients: Annotated[int, typer.Option("--patients", metavar="N", help="Roughly how many patients it has.")],
    as_json: AsJson = False,
) -> None:
    """Add a site to a study's roster. The rest of the file does not change, comments included."""
    from secfed.study.draft import add_to_roster

    fingerprint = add_to_roster(study, name, identity, patients).fingerprint()
    if as_json:
        _print({"name": name, "identity": identity, "fingerprint": fingerprint, "patients": patients})
        return
    lines = [
        f"{name} is on the roster of {study}, with about {patients} patients",
        f"  fingerprint   {fingerprint}",
        "Ask the site to read its fingerprint over the telephone, and compare.",
    ]
    typer.echo("\n".join(lines))


@app.command(name="sign", epilog=SIGN_EXAMPLE)
def sign(
    study: StudyPath,
    approvals: Annotated[
        list[Path], typer.Argument(metavar="APPROVAL...", help="The approval.json of each site of the roster.")
    ],
    as_json: AsJson = False,
) -> None:
    """Collect the sites' approvals in signatures.json beside the study. All must be there and valid.

    A site makes its approval with `secfed node approve`.
    """
    from secfed.errors import UserError
    from secfed.files.whole import write_whole
    from secfed.study.approvals import SIGNATURES, StudyFile, gather

    file = StudyFile.read(study)
    text, target = gather(file, approvals), study.parent / SIGNATURES
    try:
        write_whole(target, text.encode(), 0o644)
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror})", "Check the study's folder") from error
    if as_json:
        _print({"study_digest": file.study.digest.hex(), "signatures": len(file.study.roster), "file": str(target)})
    else:
        typer.echo(f"all {len(file.study.roster)} sites of {file.study.name} approved exactly this file: {target}")


@app.command(name="show", epilog=SHOW_EXAMPLE)
def show(study: StudyPath, as_json: AsJson = False) -> None:
    """Show a study: what is trained, how, by whom, and what it costs each patient.

    Refuses a study whose noise does not keep its promise, and names the smallest noise that does.
    """
    from secfed.models.libraries import settle_libraries

    settle_libraries()
    from secfed.files.figures import rounded_up
    from secfed.study.account import check_noise, epsilon_to_spare, price, smallest_noise
    from secfed.study.manifest import load_study
    from secfed.study.text import how_it_is_kept, in_columns, study_text

    loaded = load_study(study)
    if not as_json:
        tolerated = loaded.cohort_rules().really_tolerated(len(loaded.roster))
        typer.echo("\n".join([study_text(loaded), *in_columns(how_it_is_kept(loaded, tolerated))]))
    epsilon, smallest = check_noise(loaded), smallest_noise(loaded)
    if as_json:
        prints = {entry.name: key.fingerprint() for entry, key in zip(loaded.roster, loaded.identities, strict=True)}
        values = {"study": loaded.model_dump(mode="json"), "digest": loaded.digest.hex(), "fingerprints": prints}
        reserved = float(price(loaded, epsilon))
        _print({**values, "epsilon": epsilon, "reserved": reserved, "smallest_noise_multiplier": smallest})
        return
    noise = loaded.privacy.noise_multiplier
    cost = f"epsilon {rounded_up(epsilon, 2)} by this program's account, with noise {noise:g}; {smallest:g} is enough"
    spare = epsilon_to_spare(loaded, epsilon)
    typer.echo("\n".join(in_columns([("cost", cost), *([("to spare", spare)] if spare else [])])))


@app.command(name="diff", epilog=DIFF_EXAMPLE)
def diff(
    before: Annotated[Path, typer.Argument(metavar="A", help="A study's file.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Another study's file.")],
    as_json: AsJson = False,
) -> None:
    """List what differs between two studies: values by their place, sites by name."""
    from secfed.study.approvals import StudyFile
    from secfed.study.diff import differences

    one, other = StudyFile.read(before), StudyFile.read(after)
    found = differences(one.study, other.study)
    if as_json:
        _print({"differences": list(found), "same_text": one.data == other.data})
    elif found:
        typer.echo("\n".join(found))
    else:
        same = "the files are equal, byte for byte" if one.data == other.data else "only comments or layout differ"
        typer.echo(same)


def _print(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value))
