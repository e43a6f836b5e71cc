"""`secfed node pause` and `resume`: an owner keeps a node out of a study for a while, even after it began."""

from __future__ import annotations

import json

import typer

from secfed.cli.node import AsJson, HomeFolder, StudyDigest

PAUSE_EXAMPLE = "Example: secfed node pause 4f1c9a02"
RESUME_EXAMPLE = "Example: secfed node resume 4f1c9a02"


def add_to(app: typer.Typer) -> None:
    """Add both commands to those of a node."""
    app.command(name="pause", epilog=PAUSE_EXAMPLE)(pause)
    app.command(name="resume", epilog=RESUME_EXAMPLE)(resume)


def pause(study: StudyDigest, home: HomeFolder = None, as_json: AsJson = False) -> None:
    """Keep the node out of a study's rounds until `resume`. Works while the node runs and after the study began.

    Takes effect with the next contribution. What was spent stays spent. The other sites continue without this one if
    the study's cohort allows it. The aggregator sees that the node does not join, but not why.
    """
    from datetime import UTC, datetime

    from secfed.node.home import Home, default_home
    from secfed.node.pause import pause as pause_study

    opened = Home.open(home or default_home())
    digest = opened.digest_of(study)
    since = pause_study(opened, digest, datetime.now(UTC))
    if as_json:
        typer.echo(json.dumps({"digest": digest.hex(), "paused": since}))
        return
    typer.echo(
        f"study {digest.hex()[:16]} is paused at {opened.name} since {since}: this node contributes nothing until "
        f"`secfed node resume {digest.hex()[:16]}`. What was spent stays spent"
    )


def resume(study: StudyDigest, home: HomeFolder = None, as_json: AsJson = False) -> None:
    """Let the node take part in a paused study again, from the next round on."""
    from secfed.node.home import Home, default_home
    from secfed.node.pause import resume as resume_study

    opened = Home.open(home or default_home())
    digest = opened.digest_of(study)
    was_paused = resume_study(opened, digest)
    if as_json:
        typer.echo(json.dumps({"digest": digest.hex(), "paused": "", "was_paused": was_paused}))
        return
    typer.echo(
        f"study {digest.hex()[:16]}: {opened.name} "
        + ("takes part again, from the next round on" if was_paused else "was not paused")
    )
