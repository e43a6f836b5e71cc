"""`secfed federation renew` and `install`: new certificates before the old ones end."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

RENEW = "Example: secfed federation renew --federation federation"
INSTALL = "Example: secfed federation install harbour-clinic.crt --kit kit"
AsJson = Annotated[bool, typer.Option("--json", help="The result as one JSON object.")]


def renew(
    federation: Annotated[Path, typer.Option("--federation", metavar="DIR", help="The folder of `provision`.")],
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="For these alone; for everybody if nobody is named.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """At the organiser: make new certificates for the keys that site, server and operator have already.

    Nobody makes a new key, and nothing that is sent is secret. The kits of server and operator in the same folder get
    theirs at once.
    """
    from secfed.engines.flare import renewal

    now = datetime.now(UTC)
    made = renewal.renew(federation, names or (), now)
    kits = renewal.install_here(federation, made, now)
    until = min(each.until for each in made)
    if as_json:
        told = {each.name: {"certificate": str(each.path), "until": each.until.isoformat()} for each in made}
        typer.echo(json.dumps({"renewed": told, "kits": [str(kit) for kit in kits]}))
        return
    lines = [f"{each.name:<24} {each.path}, good until {each.until:%Y-%m-%d}" for each in made]
    lines += [f"put into                 {kit}" for kit in kits]
    if until < now + renewal.VALID - timedelta(days=1):
        lines.append(f"The authority itself ends on {until:%Y-%m-%d}: found a new federation before that.")
    lines.append(
        "Send each its own. There: `secfed federation install NAME.crt --kit kit`, and start the program again."
    )
    typer.echo("\n".join(lines))


def install(
    certificate: Annotated[Path, typer.Argument(metavar="CERTIFICATE", help="The NAME.crt from the organiser.")],
    kit_folder: Annotated[Path, typer.Option("--kit", metavar="DIR", help="The kit that it is for.")],
    as_json: AsJson = False,
) -> None:
    """At a site, the server or the operator: put a renewed certificate into the kit, if it is this kit's own.

    It is refused if it is of another federation, for another name or for another key. A program that runs from the kit
    goes on with the old one until it is started again.
    """
    from secfed.engines.flare.renewal import install as put_in

    kit, until = put_in(certificate, kit_folder, datetime.now(UTC))
    if as_json:
        typer.echo(json.dumps({"kit": str(kit.path), "until": until.isoformat()}))
        return
    start = {
        "site": f"\nstart it   secfed node run {kit.path}",
        "server": f"\nstart it   secfed federation start {kit.path}",
    }
    typer.echo(f"kit        {kit.path}, good until {until:%Y-%m-%d}{start.get(kit.role, '')}")
