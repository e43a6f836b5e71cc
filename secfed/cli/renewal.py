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
        list[str] | None, typer.Argument(metavar="NAME...", help="Only for these; for all if none is named.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """For the organiser: make new certificates for the existing keys of sites, server and operator.

    Keys stay the same, and the certificates are not secret. The kits of server and operator in the same folder are
    renewed at once.
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
        lines.append(f"The authority itself ends on {until:%Y-%m-%d}: set up a new federation before that.")
    lines.append(
        "Send each one its certificate. Each runs `secfed federation install NAME.crt --kit kit` and restarts."
    )
    typer.echo("\n".join(lines))


def install(
    certificate: Annotated[Path, typer.Argument(metavar="CERTIFICATE", help="The NAME.crt from the organiser.")],
    kit_folder: Annotated[Path, typer.Option("--kit", metavar="DIR", help="The kit that the certificate is for.")],
    as_json: AsJson = False,
) -> None:
    """For a site, the server or the operator: put a renewed certificate into the kit.

    Refuses a certificate of another federation, for another name or for another key. A running program uses the old
    certificate until it restarts.
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
