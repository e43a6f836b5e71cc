"""`secfed federation`: connects the sites of a study and runs it on a separate aggregator."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secfed.cli import renewal
from secfed.errors import UserError
from secfed.models.libraries import require_flare

if TYPE_CHECKING:
    from secfed.engines.flare.authority import Participant, Profile

PROVISION = "Example: secfed federation provision study.toml --server aggregator.example:8002 --out federation"
REQUEST = "Example: secfed federation request harbour-clinic --federation federation.json --out request"
APPROVE = "Example: secfed federation approve harbour-clinic.request.zip --federation federation"
KIT = "Example: secfed federation kit harbour-clinic.signed.zip --request request --fingerprint SHA256:86:... --out kit"
START = "Example: secfed federation start federation/server"
SUBMIT = "Example: secfed federation submit study.toml --kit federation/operator"
STATUS = "Example: secfed federation status --kit federation/operator"
LEAVE_OUT = "Example: secfed federation leave-out study.toml lakeside-hospital"
DEMO = "Example: secfed federation demo --out runs/demo-flare"
ABORT = "Example: secfed federation abort study.toml --kit federation/operator"

app = typer.Typer(
    help="Sites on their own machines: certificates, start-up kits, and studies on an aggregator.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
AsJson = Annotated[bool, typer.Option("--json", help="The result as one JSON object.")]
OperatorsKit = Annotated[Path, typer.Option("--kit", metavar="DIR", help="The operator's kit.")]
AggregatorFolder = Annotated[
    Path | None,
    typer.Option(
        "--aggregator",
        metavar="DIR",
        help="The aggregator's folder; default: SECFED_AGGREGATOR or ~/.secfed-aggregator.",
    ),
]
StudyPath = Annotated[Path, typer.Argument(metavar="STUDY", help="The study's file.", exists=False)]


@app.callback()
def _group() -> None:
    """Commands for the organiser, the sites, and the aggregator's operator."""
    require_flare()


@app.command(name="provision", epilog=PROVISION)
def provision(
    study: StudyPath,
    server: Annotated[
        str, typer.Option("--server", metavar="HOST:PORT", help="The aggregator's address for the sites.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder for the authority and the kits.")],
    with_keys: Annotated[
        bool,
        typer.Option(
            "--with-keys", help="Also make the sites' kits here, with their private keys: for a trial on one machine."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make the federation's certificate authority, and the start-up kits of the server and its operator.

    Sites keep their private keys. Send each site `federation.json`. It runs `secfed federation request` and sends you
    the result; approve it, and read the fingerprint over the telephone. Every kit allows only jobs that name classes of
    secfed, and no job brings code.
    """
    from secfed.engines.flare.names import check_names
    from secfed.engines.flare.tls import parse_address
    from secfed.files.whole import check_new, whole_or_gone
    from secfed.study.manifest import load_study

    loaded, (host, port) = load_study(study), parse_address(server)
    names = tuple(entry.name for entry in loaded.roster)
    check_names(host, names)
    check_new(out)
    if with_keys:
        from secfed.engines.flare.kits import Federation, make_kits

        with whole_or_gone(out):
            kits = make_kits(Federation(loaded.name, host, port, names), out)
        _tell(
            as_json,
            {"kits": {name: str(kit) for name, kit in kits.items()}},
            [f"{name:<24} {kit}" for name, kit in kits.items()]
            + ["", "These kits hold the sites' private keys: only for a trial on one machine."],
        )
        return
    from secfed.engines.flare import authority

    with whole_or_gone(out):
        profile = authority.found(authority.Profile(project=loaded.name, host=host, port=port, sites=names), out)
        kits = {name: _own_kit(profile, out, name, each) for name, each in _aggregators(host).items()}
    _tell(
        as_json,
        {"profile": str(out / authority.PROFILE), "fingerprint": profile.fingerprint}
        | {"kits": {name: str(kit) for name, kit in kits.items()}},
        [
            f"authority        {out / authority.AUTHORITY}: keep it away from the server, and back it up",
            *(f"{name + ' kit':<16} {kit}" for name, kit in kits.items()),
            f"for the sites    {out / authority.PROFILE}",
            f"fingerprint      {profile.fingerprint}",
            "",
            "Each site runs `secfed federation request NAME --federation federation.json` and sends you the result;",
            "`secfed federation approve` signs it. Read the fingerprint over the telephone.",
        ],
    )


@app.command(name="request", epilog=REQUEST)
def request(
    site: Annotated[str, typer.Argument(metavar="NAME", help="The site's name on the roster.")],
    federation: Annotated[Path, typer.Option("--federation", metavar="FILE", help="The organiser's federation.json.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder; the private key stays in it.")],
    as_json: AsJson = False,
) -> None:
    """For a site: make a private key, which stays here, and a request for a certificate."""
    from secfed.engines.flare import authority

    profile = authority.read_profile(federation)
    if site not in profile.sites:
        raise UserError(
            f"{site} is not among the sites of {federation}: {', '.join(profile.sites)}",
            "Give this site's name as on the roster",
        )
    made = authority.request(profile, _site(site), out)
    _tell(as_json, {"request": str(made)}, [f"send to the organiser   {made}", f"stays here              {out}"])


@app.command(name="approve", epilog=APPROVE)
def approve(
    request_file: Annotated[Path, typer.Argument(metavar="REQUEST", help="The NAME.request.zip of a site.")],
    federation: Annotated[Path, typer.Option("--federation", metavar="DIR", help="The folder of `provision`.")],
    as_json: AsJson = False,
) -> None:
    """For the organiser: sign a site's request, once, if the site is on the study's roster."""
    from secfed.engines.flare import authority

    signed = authority.approve(federation, request_file)
    fingerprint = authority.read_profile(federation / authority.PROFILE).fingerprint
    _tell(
        as_json,
        {"signed": str(signed), "fingerprint": fingerprint},
        [f"send back to the site            {signed}", f"read over the telephone          {fingerprint}"],
    )


@app.command(name="kit", epilog=KIT)
def kit(
    signed: Annotated[Path, typer.Argument(metavar="SIGNED", help="The NAME.signed.zip from the organiser.")],
    request_folder: Annotated[Path, typer.Option("--request", metavar="DIR", help="The folder of `request`.")],
    fingerprint: Annotated[
        str,
        typer.Option(
            "--fingerprint", metavar="SHA256:...", help="The fingerprint that the organiser read over the telephone."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder for the kit.")],
    as_json: AsJson = False,
) -> None:
    """For a site: make the start-up kit from the signed request and the private key that stayed here."""
    from secfed.engines.flare import authority

    made = authority.assemble(signed, request_folder, fingerprint, out)
    _tell(as_json, {"kit": str(made)}, [f"kit        {made}", f"start it   secfed node run {made}"])


app.command(name="renew", epilog=renewal.RENEW)(renewal.renew)
app.command(name="install", epilog=renewal.INSTALL)(renewal.install)


@app.command(name="start", epilog=START)
def start(
    kit_folder: Annotated[Path, typer.Argument(metavar="KIT", help="The server's kit.")],
    aggregator: AggregatorFolder = None,
) -> None:
    """Run the server from its kit, in this process, until you stop it. Sites use `secfed node run`."""
    from secfed.aggregator.home import default_home
    from secfed.engines.flare.processes import become, is_server

    if not is_server(kit_folder):
        raise UserError(f"{kit_folder} is a site's kit", f"Run it at the site with `secfed node run {kit_folder}`")
    become(kit_folder, aggregator or default_home())


@app.command(name="submit", epilog=SUBMIT)
def submit(
    study: StudyPath, kit_folder: OperatorsKit, aggregator: AggregatorFolder = None, as_json: AsJson = False
) -> None:
    """Put a study into the aggregator's folder and run it on the server, from the start or from where it stopped.

    The job holds only names of installed classes and the study's digest. Sites take part if their owners approved the
    study; a site that connects later joins between two rounds. After a crash or restart the server itself submits the
    studies that were running. You need not do it again, but it does no harm.
    """
    from secfed.aggregator.home import AggregatorHome, default_home
    from secfed.engines.flare.connections import read_connections
    from secfed.engines.flare.jobs import connect
    from secfed.engines.flare.status import Connections, ages
    from secfed.study.manifest import load_study

    home = AggregatorHome(aggregator or default_home())
    load_study(study)  # before the server is asked
    with connect(kit_folder) as operator:
        added = home.add(study)  # only now, so nothing is left behind if the server does not answer
        heard = Connections(ages(operator.last_heard(), time.time()), read_connections(home.path))
        job = operator.submit(added)
    missing = [entry.name for entry in added.roster if not heard.has(entry.name)]
    _tell(
        as_json,
        {"job": job, "study": added.digest.hex(), "run": str(home.run(added.digest)), "not_connected": missing},
        [
            f"submitted    {added.name}, {added.digest.hex()[:16]}, as job {job}",
            f"connected    {len(added.roster) - len(missing)} of {len(added.roster)} sites"
            + (f"; not {', '.join(missing)}" if missing else ""),
            f"the run      {home.run(added.digest)}",
        ],
    )


@app.command(name="status", epilog=STATUS)
def status(kit_folder: OperatorsKit, aggregator: AggregatorFolder = None, as_json: AsJson = False) -> None:
    """Show where each study stands, what it waits for, and for each site whether it is connected and takes part.

    Rounds and answers are in the aggregator's folder: run this on that machine to see them.
    """
    from secfed.cli.federation_status import tell_status

    tell_status(kit_folder, aggregator, as_json)


@app.command(name="leave-out", epilog=LEAVE_OUT)
def leave_out(
    study: StudyPath,
    sites: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME...", help="The sites to leave out, by their roster names; all others take part."),
    ] = None,
    nobody: Annotated[bool, typer.Option("--nobody", help="Let all sites take part again.")] = False,
    aggregator: AggregatorFolder = None,
    as_json: AsJson = False,
) -> None:
    """Leave sites out of a study's rounds from the next round on. Works while the study runs.

    Use it to find the site whose uploads spoil the sums: see docs/wrong-sums.md. You can leave out as many sites as may
    drop out of a full round. They still get every receipt and sum.
    """
    from secfed.aggregator.home import AggregatorHome, default_home
    from secfed.study.manifest import load_study

    if nobody == bool(sites):
        raise UserError("no site was named", "Name the sites to leave out, or give --nobody to let all take part again")
    loaded = load_study(study)
    left_out = AggregatorHome(aggregator or default_home()).leave_out(loaded, sites or ())
    names = [entry.name for entry in loaded.roster]
    away = [names[node] for node in sorted(left_out)]
    others = [name for node, name in enumerate(names) if node not in left_out]
    spare = loaded.cohort_rules().really_tolerated(len(others))
    _tell(
        as_json,
        {"study": loaded.digest.hex(), "left_out": away, "take_part": others, "may_drop_out": spare},
        [
            f"left out     {', '.join(away) or 'nobody'}, from the next round on",
            f"take part    {', '.join(others)}; {spare} of them may drop out",
        ],
    )


@app.command(name="abort", epilog=ABORT)
def abort(study: StudyPath, kit_folder: OperatorsKit, as_json: AsJson = False) -> None:
    """Stop a study's job. What its rounds spent stays spent. Submit it again to continue after its last receipt."""
    from secfed.engines.flare.jobs import connect
    from secfed.study.manifest import load_study

    loaded = load_study(study)
    with connect(kit_folder) as operator:
        ended = operator.abort(loaded.digest)
    if not ended:
        raise UserError(f"no job of {loaded.name} is running", "See `secfed federation status`")
    _tell(as_json, {"aborted": ended}, [f"ended    job {job} of {loaded.name}" for job in ended])


@app.command(name="demo", epilog=DEMO)
def demo(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The demo's folder; an earlier demo there is replaced.")
    ] = Path("runs/demo-flare"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Progress as JSON lines; the last line is the summary.")
    ] = False,
) -> None:
    """Run a server and four hospitals as processes on this machine, over mutual TLS: the demo's study, fewer rounds."""
    import signal

    from secfed.cli.demo import fresh_folder
    from secfed.cli.reporters import choose_reporter
    from secfed.models.libraries import settle_libraries

    settle_libraries()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: ends every process of the demo
    reporter = choose_reporter(as_json)
    try:
        mark = fresh_folder(out, "four hospitals", reporter)
        try:
            from secfed.demo.flare import run_demo

            outcome = run_demo(out, reporter)
        finally:
            if out.exists():
                mark.touch()  # a demo that was cut short can be replaced, too
    except KeyboardInterrupt:
        raise UserError(
            "the demo was stopped, and all its processes ended", f"Remove {out}, or start the demo again"
        ) from None
    finally:
        reporter.close()
    if as_json:
        typer.echo(json.dumps({"event": "summary", **outcome.summary, "overhead_seconds": outcome.overheads}))
        return
    from secfed.cli.closing import closing_words, overhead_words

    typer.echo(closing_words(outcome.summary, out / "study.toml", out))
    typer.echo(overhead_words(outcome.overheads))


def _aggregators(host: str) -> dict[str, Participant]:
    from secfed.engines.flare.authority import Participant
    from secfed.engines.flare.kits import OPERATOR, ORGANISATION, ROLE

    return {
        "server": Participant(host, "server", ORGANISATION),
        "operator": Participant(OPERATOR, "admin", ORGANISATION, ROLE),
    }


def _site(name: str) -> Participant:
    from secfed.engines.flare.authority import Participant

    return Participant(name, "client", name.replace("-", "_"))


def _own_kit(profile: Profile, out: Path, name: str, participant: Participant) -> Path:
    """Make the kit of a participant on this machine: request, signature and kit in one step."""
    from secfed.engines.flare import authority

    made = authority.request(profile, participant, out / "requests" / name)
    signed = authority.approve(out, made)
    return authority.assemble(signed, out / "requests" / name, profile.fingerprint, out / name)


def _tell(as_json: bool, values: dict[str, Any], lines: list[str]) -> None:
    typer.echo(json.dumps(values) if as_json else "\n".join(lines))
