"""`secfed doctor`: finds problems at a node or at the aggregator, and says how to fix them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secfed.errors import UserError

if TYPE_CHECKING:
    from secfed.engines.flare.tls import Server
    from secfed.findings import Finding

EXAMPLE = "Example: secfed doctor --server fl.example.org:8002 --ca rootCA.pem --cert client.crt --key client.key"
_STATE_WIDTH, _CHECK_WIDTH = 13, 24


def command(
    home: Annotated[
        Path | None,
        typer.Option("--home", metavar="DIR", help="The node's folder; default: SECFED_HOME or ~/.secfed."),
    ] = None,
    aggregator: Annotated[
        Path | None, typer.Option("--aggregator", metavar="DIR", help="Check an aggregator's folder instead.")
    ] = None,
    kit: Annotated[
        Path | None,
        typer.Option("--kit", metavar="DIR", help="The start-up kit; default: the one that was started last."),
    ] = None,
    server: Annotated[
        str | None, typer.Option("--server", metavar="HOST:PORT", help="Try to connect to the server.")
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option("--ca", metavar="FILE", help="The CA certificate that checks the server's certificate."),
    ] = None,
    cert: Annotated[
        Path | None, typer.Option("--cert", metavar="FILE", help="This node's certificate, if the server requires one.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", metavar="FILE", help="Its key.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The findings as one JSON object.")] = False,
) -> None:
    """Check everything that a round needs, and say how to fix each problem. Changes nothing.

    Checks Python and libraries, disk, clock, keys and their permissions, policy, pace, data, base models, ledger,
    budget, memory, the start-up kit's certificate and key, and TLS to the server. Exit code 0: no check failed. 1: at
    least one failed.
    """
    from secfed.models.libraries import settle_libraries

    settle_libraries()
    from secfed.doctor.checkup import examine_aggregator, examine_node
    from secfed.node.home import default_home

    if aggregator is not None and home is not None:
        raise UserError("you gave both a node and an aggregator", "Give either --home or --aggregator")
    where = _server(server, ca, cert, key)
    if aggregator is not None:
        findings = examine_aggregator(aggregator, where, kit=kit)
    else:
        findings = examine_node(default_home() if home is None else home, where, kit=kit)
    failed = sum(each.state == "failed" for each in findings)
    if as_json:
        typer.echo(json.dumps({"ok": not failed, "findings": [dataclasses.asdict(each) for each in findings]}))
    else:
        typer.echo("\n".join([*map(_line, findings), f"{failed} of {len(findings)} checks failed"]))
    if failed:
        raise typer.Exit(1)


def _server(address: str | None, ca: Path | None, cert: Path | None, key: Path | None) -> Server | None:
    from secfed.engines.flare.tls import Server, parse_address

    if address is None:
        if any(each is not None for each in (ca, cert, key)):
            raise UserError("you gave certificates but no server", "Add --server HOST:PORT")
        return None
    if ca is None or (cert is None) != (key is None):
        raise UserError("--server needs --ca, and --cert and --key only together", "Give the missing option")
    return Server(*parse_address(address), ca, cert, key)


def _line(finding: Finding) -> str:
    state = "FAILED" if finding.state == "failed" else finding.state
    line = f"{state:<{_STATE_WIDTH}}{finding.check:<{_CHECK_WIDTH}}{finding.text}"
    return f"{line}. {finding.fix}" if finding.fix else line
