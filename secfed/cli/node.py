"""`secfed node`: a hospital's own node, from its key to what its owner approves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secfed.cli.options import TextEncoding

if TYPE_CHECKING:
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
    help="A hospital's own node: its key, its data, its policy, and the studies that its owner approves.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="The data that the node may train on.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")

HomeFolder = Annotated[
    Path | None,
    typer.Option("--home", metavar="DIR", help="The node's folder; SECFED_HOME or ~/.secfed if not given."),
]
StudyDigest = Annotated[
    str, typer.Argument(metavar="DIGEST", help="The study's digest, or the beginning of it; see `secfed node status`.")
]
AsJson = Annotated[bool, typer.Option("--json", help="The result as one JSON object.")]


@app.callback()
def _group() -> None:
    """Commands of a node's owner."""


@data_app.callback()
def _data_group() -> None:
    """Commands about data."""


@app.command(name="init", epilog=INIT_EXAMPLE)
def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the node is called: as rosters are to call it.")],
    home: HomeFolder = None,
    as_json: AsJson = False,
) -> None:
    """Make a node: a fresh identity key, and a policy that allows nothing yet.

    Prints the identity for the organiser's roster, and its fingerprint, which both read out over the telephone.
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
        "1. Send the organiser the identity, and read out the fingerprint over the telephone.",
        f"2. Back up {made.path / KEY} where nobody else can read it: it is made once.",
        "3. Register data with `secfed node data add FILE`.",
        f"4. Say in {made.path / POLICY} what this node allows. As it stands that is nothing.",
    ]
    typer.echo("\n".join(lines))


@data_app.command(name="add", epilog=ADD_EXAMPLE)
def add(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines, one record a line.")],
    population: Annotated[
        str, typer.Option("--population", metavar="NAME", help="Whose records these are: whose budget pays for them.")
    ],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What to call the data here; FILE's name by default.")
    ] = None,
    patients: Annotated[
        int | None, typer.Option("--patients", metavar="N", help="Roughly how many patients the population has.")
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option("--epsilon", metavar="E", help="What all studies together may spend of them.")
    ] = None,
    delta: Annotated[float | None, typer.Option("--delta", metavar="D", help="Likewise; at most 1 / (10 N).")] = None,
    disjoint: Annotated[
        str,
        typer.Option(
            "--disjoint", metavar="TEXT", help="For a second population: your word that no patient is in both, and why."
        ),
    ] = "",
    patient_column: Annotated[
        str, typer.Option("--patient-column", metavar="NAME", help="The field that says whose record it is.")
    ] = "patient",
    text_column: Annotated[str, typer.Option("--text-column", metavar="NAME", help="A field with text.")] = "text",
    label_column: Annotated[
        str, typer.Option("--label-column", metavar="NAME", help="A field with a label.")
    ] = "label",
    encoding: TextEncoding = "utf-8",
    home: HomeFolder = None,
    as_json: AsJson = False,
) -> None:
    """Register a data file and the population of patients that it belongs to.

    A population that is new here gets a budget in policy.toml: give --patients, --epsilon and --delta. Files of the
    same patients are paid from one budget. What was found in the file is printed here and goes nowhere else.
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
    from secfed.errors import printable

    labels = ", ".join(f'"{label}"' for label in seen.labels[:5]) + (", ..." if len(seen.labels) > 5 else "")
    lines = [
        f"{called} is registered at {opened.name}, for {population}",
        f"  patients      {seen.patients}, with {seen.records} records; at most {seen.most_records} of one patient",
        f"  labels        {len(seen.labels)}: {labels}",
        "This is shown here and to nobody else.",
    ]
    typer.echo("\n".join(printable(line) for line in lines))


@data_app.command(name="accept", epilog=ACCEPT_EXAMPLE)
def accept(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="What the data is called here; see `secfed node status`.")
    ],
    home: HomeFolder = None,
    as_json: AsJson = False,
) -> None:
    """Say that a data file was changed on purpose: a patient withdrew, or records were corrected.

    A node takes no part in a study while the data is not as it was approved. After this it goes on with the file as it
    is now, from the next round on, if the file still fits the study. What was trained and spent before stays.
    """
    from secfed.node.data_change import accept_data

    found = accept_data(_open(home), name)
    if as_json:
        studies = [{"study": each.study, "digest": each.digest.hex(), "problem": each.problem} for each in found]
        _print({"data": name, "studies": studies})
        return
    lines = [
        f"{each.study} {each.digest.hex()[:16]}  " + (each.problem or f"goes on with {name} as it is now")
        for each in found
    ]
    typer.echo("\n".join(lines or [f"no approved study trains on {name}"]))


@app.command(name="approve", epilog=APPROVE_EXAMPLE)
def approve(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="The study's file, as the organiser sent it.")],
    data: Annotated[
        str | None, typer.Option("--data", metavar="NAME", help="Which of the node's data it trains on, if several.")
    ] = None,
    home: HomeFolder = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether you approve what is shown.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The screen, and then the result, as JSON lines.")] = False,
) -> None:
    """Look at a study, and approve it: reserve its budget, sign it, and let the node run it.

    Shows what is trained, on which data, what it costs and what stays, who takes part, and what differs from the study
    approved last. Everything is checked before the question: policy, data, budget, noise, base model.
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
    """What the node has: budgets granted, reserved, spent and left; studies approved, and their rounds."""
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
    """Connect to the aggregator and take part in the studies that were approved here, until it is ended.

    The node dials out and listens nowhere. What it says to its owner is in node.log in its folder.
    """
    from secfed.engines.flare.processes import become, is_server
    from secfed.errors import UserError
    from secfed.models.libraries import require_flare

    require_flare()

    opened = _open(home)
    if is_server(kit):
        raise UserError(f"{kit} is the server's kit", "Give this site's own; the server is run by its operator")
    become(kit, opened.path)


@app.command(name="withdraw", epilog=WITHDRAW_EXAMPLE)
def withdraw(
    study: StudyDigest,
    home: HomeFolder = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether you mean it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give back the budget of a study that has not begun here. It is for good: it cannot be approved again."""
    from secfed.cli.questions import ask
    from secfed.errors import UserError
    from secfed.node.approve import withdraw as give_back

    opened = _open(home)
    kept = opened.stored(opened.digest_of(study))
    if not yes and not ask(
        f"Withdraw {kept.study.name} for good?", "it", "Nothing was withdrawn. Give --yes to do it without the question"
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
        typer.Option("--highest-round", metavar="R", help="The highest round that any other site has seen opened."),
    ],
    home: HomeFolder = None,
    as_json: AsJson = False,
) -> None:
    """Say that this node was put back from a backup, before it runs again. Do so for each of its studies.

    It may have signed rounds that it has forgotten. It takes part again once there is a receipt of round R or a later
    one, and counts all rounds up to R as spent. Ask the other sites for R, and not the aggregator.
    """
    from secfed.node.approve import raise_floor

    opened = _open(home)
    digest = opened.digest_of(study)
    raise_floor(opened, digest, highest_round)
    if as_json:
        _print({"digest": digest.hex(), "highest_round": highest_round})
    else:
        typer.echo(f"{opened.name} keeps still in study {digest.hex()[:16]} until a receipt has passed {highest_round}")


@app.command(name="allow-attempts", epilog=ATTEMPTS_EXAMPLE)
def allow_attempts(
    study: StudyDigest,
    more: Annotated[int, typer.Option("--more", metavar="N", help="How many rounds more.")] = 3,
    home: HomeFolder = None,
    as_json: AsJson = False,
) -> None:
    """Let this node join more rounds on the state of the model at which it has stopped; it may be running.

    After three rounds without a receipt a node stops: each further one, with other survivors, tells the aggregator more
    about single hospitals, and spends. So this is for that one state, and for at most nine rounds on it. Read
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
            "each counts as spent, whatever comes of it"
        )


def _confirm(home: Home, candidate: Candidate, yes: bool) -> Approved:
    from datetime import UTC, datetime

    from secfed.cli.questions import ask
    from secfed.errors import UserError
    from secfed.node.approve import approve

    confirmed = yes or ask(
        "Approve this study, and reserve this budget?",
        "the study",
        "Nothing was signed. Read the screen, and give --yes to approve without the question",
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
        f"{kept.study.name} is approved here since {kept.approval.approved}, and its budget is reserved",
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
