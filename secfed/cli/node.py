"""`secfed node`: a site's own node, from its key to the studies that its owner approves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secfed.cli.options import TextEncoding

if TYPE_CHECKING:
    from secfed.models.data import Survey
    from secfed.node.approve import Candidate
    from secfed.node.home import Approved, Home

INIT_EXAMPLE = "Example: secfed node init harbour-clinic"
ADD_EXAMPLE = (
    "Example: secfed node data add letters.jsonl --population 'patients of harbour-clinic' --patients 2000 "
    "--epsilon 8 --delta 1e-5"
)
APPROVE_EXAMPLE = "Example: secfed node approve study.toml"
STATUS_EXAMPLE = "Example: secfed node status --json"

RUN_EXAMPLE = "Example: secfed node run kit"
WITHDRAW_EXAMPLE = "Example: secfed node withdraw 4f1c9a02"
ACCEPT_EXAMPLE = "Example: secfed node data accept letters"
ATTEMPTS_EXAMPLE = "Example: secfed node allow-attempts 4f1c9a02 --more 3"
RESTORED_EXAMPLE = "Example: secfed node restored 4f1c9a02 --highest-round 17"

app = typer.Typer(
    help="A site's own node: its key, its data, its policy, and the studies that its owner approves.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="The data that the node may train on.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")

HomeFolder = Annotated[
    Path | None,
    typer.Option("--home", metavar="DIR", help="The node's folder; default: SECFED_HOME or ~/.secfed."),
]
StudyDigest = Annotated[
    str, typer.Argument(metavar="DIGEST", help="The study's digest or its first digits; see `secfed node status`.")
]
AsJson = Annotated[bool, typer.Option("--json", help="The result as one JSON object.")]


@app.callback()
def _group() -> None:
    """Commands for a node's owner."""


@data_app.callback()
def _data_group() -> None:
    """Commands for the node's data."""


@app.command(name="init", epilog=INIT_EXAMPLE)
def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The node's name, as on rosters.")],
    home: HomeFolder = None,
    as_json: AsJson = False,
) -> None:
    """Set up a node: a new identity key, and a policy that allows nothing yet.

    Prints the identity for the organiser's roster, and its fingerprint to compare over the telephone.
    """
    from secfed.node.enrol import make_home
    from secfed.node.home import KEY, POLICY

    made = make_home(_folder(home), name)
    identity, fingerprint = made.identity.public.raw.hex(), made.identity.public.fingerprint()
    if as_json:
        _print({"name": name, "home": str(made.path), "identity": identity, "fingerprint": fingerprint})
        return
    lines = [
        f"{name} is set up in {made.path}",
        f"  identity      {identity}",
        f"  fingerprint   {fingerprint}",
        "",
        "1. Send the organiser the identity, and read the fingerprint over the telephone.",
        f"2. Back up {made.path / KEY} where nobody else can read it: it cannot be made again.",
        "3. Register data with `secfed node data add FILE`.",
        f"4. Set in {made.path / POLICY} what this node allows. So far it allows nothing.",
    ]
    typer.echo("\n".join(lines))


@data_app.command(name="add", epilog=ADD_EXAMPLE)
def add(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="One record per line or row: JSON lines, CSV or Parquet.")
    ],
    population: Annotated[
        str, typer.Option("--population", metavar="NAME", help="The people whose records these are; their budget pays.")
    ],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="The data's name here; FILE's name by default.")
    ] = None,
    patients: Annotated[
        int | None, typer.Option("--patients", metavar="N", help="Roughly how many patients the population has.")
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option("--epsilon", metavar="E", help="The most that all studies together may spend.")
    ] = None,
    delta: Annotated[float | None, typer.Option("--delta", metavar="D", help="Likewise; at most 1 / (10 N).")] = None,
    disjoint: Annotated[
        str,
        typer.Option(
            "--disjoint",
            metavar="TEXT",
            help="For a second population: your statement that no patient is in both, and why.",
        ),
    ] = "",
    patient_column: Annotated[
        str, typer.Option("--patient-column", metavar="NAME", help="The field with the patient's id.")
    ] = "patient",
    text_column: Annotated[
        str, typer.Option("--text-column", metavar="NAME", help="The field with the text.")
    ] = "text",
    label_column: Annotated[
        str, typer.Option("--label-column", metavar="NAME", help="The field with the label.")
    ] = "label",
    encoding: TextEncoding = "utf-8",
    home: HomeFolder = None,
    as_json: AsJson = False,
) -> None:
    """Register a data file and the population of patients that it belongs to.

    A new population gets a budget in policy.toml: give --patients, --epsilon and --delta. All files of the same
    patients share one budget. The counts from the file are printed here and sent nowhere.
    """
    from secfed.models.data import Columns
    from secfed.node.enrol import NewBudget, register

    columns = Columns(patient_column, text_column, label_column)
    called = file.stem if name is None else name
    budget = NewBudget(patients, epsilon, delta, disjoint)
    opened, seen = register(_open(home), file, called, population, columns, budget, encoding)
    if as_json:
        found = {"patients": seen.patients, "records": seen.records, "labels": list(seen.labels)}
        _print({"name": called, "population": population, **found, "most_records": seen.most_records})
        return
    _tell(f"{called} is registered at {opened.name}, for {population}", seen)


def _tell(registered: str, seen: Survey) -> None:
    """Print what is in a data file, for its owner."""
    from secfed.errors import printable

    labels = ", ".join(f'"{label}"' for label in seen.labels[:5]) + (", ..." if len(seen.labels) > 5 else "")
    lines = [
        registered,
        f"  patients      {seen.patients}, with {seen.records} records; at most {seen.most_records} per patient",
        f"  labels        {len(seen.labels)}: {labels}",
        "These counts are shown only here.",
    ]
    typer.echo("\n".join(printable(line) for line in lines))


@data_app.command(name="accept", epilog=ACCEPT_EXAMPLE)
def accept(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The data's name here; see `secfed node status`.")],
    home: HomeFolder = None,
    as_json: AsJson = False,
) -> None:
    """Accept a data file that was changed on purpose: a patient withdrew, or records were corrected.

    While the data differs from what was approved, the node takes no part in the study. After this command it continues
    with the changed file from the next round on, if the file still fits the study. What was trained and spent stays.
    """
    from secfed.node.data_change import accept_data

    found = accept_data(_open(home), name)
    if as_json:
        studies = [{"study": each.study, "digest": each.digest.hex(), "problem": each.problem} for each in found]
        _print({"data": name, "studies": studies})
        return
    lines = [
        f"{each.study} {each.digest.hex()[:16]}  " + (each.problem or f"continues with {name} as it is now")
        for each in found
    ]
    typer.echo("\n".join(lines or [f"no approved study trains on {name}"]))


@app.command(name="approve", epilog=APPROVE_EXAMPLE)
def approve(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="The study's file, as the organiser sent it.")],
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="NAME", help="Which of the node's data to train on, if there are several."),
    ] = None,
    home: HomeFolder = None,
    yes: Annotated[bool, typer.Option("--yes", help="Approve without the question.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The screen and then the result, as JSON lines.")] = False,
) -> None:
    """Read a study and approve it: reserve its budget, sign it, and let the node run it.

    Shows what is trained, on which data, what it costs and how much budget stays, who takes part, and what differs from
    the last approved study. Checks policy, data, budget, noise and base model before it asks you.
    """
    from secfed.models.libraries import settle_libraries

    settle_libraries()
    from secfed.node.approve import approval_screen, earlier_approval, examine

    opened = _open(home)
    kept = earlier_approval(opened, study)
    if kept is None:
        candidate = examine(opened, study, data)
        screen = approval_screen(candidate)
        if as_json:
            _print({"event": "note", "text": screen})
        else:
            typer.echo(screen)
        kept = _confirm(opened, candidate, yes)
    _tell_approved(kept, as_json)


@app.command(name="status", epilog=STATUS_EXAMPLE)
def status(home: HomeFolder = None, as_json: AsJson = False) -> None:
    """Show the node's budgets (granted, reserved, spent, left), its approved studies, and their rounds."""
    from secfed.node.status import node_status, status_text

    found = node_status(_open(home))
    if as_json:
        _print(found)
    else:
        typer.echo(status_text(found))


@app.command(name="run", epilog=RUN_EXAMPLE)
def run(
    kit: Annotated[
        Path, typer.Argument(metavar="KIT", help="This site's start-up kit; see `secfed federation request`.")
    ],
    home: HomeFolder = None,
) -> None:
    """Connect to the aggregator and take part in the studies approved here, until you stop it.

    The node only makes outgoing connections. Its messages to its owner are in node.log in its folder.
    """
    from secfed.engines.flare.processes import become, is_server
    from secfed.errors import UserError
    from secfed.models.libraries import require_flare

    require_flare()

    opened = _open(home)
    if is_server(kit):
        raise UserError(f"{kit} is the server's kit", "Give this site's kit; the operator runs the server")
    become(kit, opened.path)


@app.command(name="withdraw", epilog=WITHDRAW_EXAMPLE)
def withdraw(
    study: StudyDigest,
    home: HomeFolder = None,
    yes: Annotated[bool, typer.Option("--yes", help="Withdraw without the question.")] = False,
    as_json: AsJson = False,
) -> None:
    """Withdraw a study that has not begun here, and get its budget back. It cannot be approved again."""
    from secfed.cli.questions import ask
    from secfed.errors import UserError
    from secfed.node.approve import withdraw as give_back

    opened = _open(home)
    kept = opened.stored(opened.digest_of(study))
    if not yes and not ask(
        f"Withdraw {kept.study.name} for good?",
        "it",
        "Nothing was withdrawn. Add --yes to withdraw without the question",
    ):
        raise UserError("nothing was withdrawn", "The study stays approved")
    back = give_back(opened, kept.study.digest)
    if as_json:
        _print({"study": kept.study.name, "digest": kept.study.digest.hex(), "state": "withdrawn"})
    else:
        typer.echo(f"{kept.study.name} is withdrawn, and epsilon {back} is given back")


@app.command(name="restored", epilog=RESTORED_EXAMPLE)
def restored(
    study: StudyDigest,
    highest_round: Annotated[
        int,
        typer.Option("--highest-round", metavar="R", help="The highest round that any other site has seen."),
    ],
    home: HomeFolder = None,
    as_json: AsJson = False,
) -> None:
    """Declare that this node was restored from a backup. Do this for each of its studies, before the node runs again.

    The restored node may have signed rounds that it has forgotten. It takes part again when there is a receipt of round
    R or a later one, and it counts all rounds up to R as spent. Ask the other sites for R, not the aggregator.
    """
    from secfed.node.approve import raise_floor

    opened = _open(home)
    digest = opened.digest_of(study)
    raise_floor(opened, digest, highest_round)
    if as_json:
        _print({"digest": digest.hex(), "highest_round": highest_round})
    else:
        typer.echo(
            f"{opened.name} waits in study {digest.hex()[:16]} for a receipt of round {highest_round} or a later one"
        )


@app.command(name="allow-attempts", epilog=ATTEMPTS_EXAMPLE)
def allow_attempts(
    study: StudyDigest,
    more: Annotated[int, typer.Option("--more", metavar="N", help="How many more rounds.")] = 3,
    home: HomeFolder = None,
    as_json: AsJson = False,
) -> None:
    """Let this node join more rounds on the model state at which it stopped. Works while the node runs.

    After three rounds without a receipt a node stops: each further round with other survivors tells the aggregator more
    about single sites, and spends budget. So this holds only for that state, and for at most nine rounds on it. Read
    docs/wrong-sums.md first.
    """
    from secfed.node.approve import allow_more_attempts

    opened = _open(home)
    digest = opened.digest_of(study)
    allowed = allow_more_attempts(opened, digest, more)
    if as_json:
        _print({"digest": digest.hex(), "more": more, "allowed_on_this_state": allowed})
    else:
        typer.echo(
            f"{opened.name} joins up to {more} more rounds of study {digest.hex()[:16]} on this state of the model; "
            "each counts as spent, whatever its result"
        )


def _confirm(home: Home, candidate: Candidate, yes: bool) -> Approved:
    from datetime import UTC, datetime

    from secfed.cli.questions import ask
    from secfed.errors import UserError
    from secfed.node.approve import approve

    confirmed = yes or ask(
        "Approve this study, and reserve this budget?",
        "the study",
        "Nothing was signed. Read the screen, and add --yes to approve without the question",
    )
    if not confirmed:
        raise UserError("the study was not approved", "Nothing was signed and nothing is reserved")
    return approve(home, candidate, datetime.now(UTC))


def _tell_approved(kept: Approved, as_json: bool) -> None:
    from secfed.node.home import APPROVAL

    path = kept.folder / APPROVAL
    if as_json:
        digest, when = kept.study.digest.hex(), kept.approval.approved
        _print({"event": "approved", "study": kept.study.name, "digest": digest, "at": when, "approval": str(path)})
        return
    lines = [
        f"{kept.study.name} was approved here on {kept.approval.approved}, and its budget is reserved",
        f"send the organiser   {path}",
    ]
    typer.echo("\n".join(lines))


def _open(home: Path | None) -> Home:
    from secfed.node.home import Home

    return Home.open(_folder(home))


def _folder(home: Path | None) -> Path:
    from secfed.node.home import default_home

    return default_home() if home is None else home


def _print(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value))
