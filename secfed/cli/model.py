"""`secfed model`: base models from elsewhere, made ready for a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

IMPORT_EXAMPLE = "Example: secfed model import SmolLM2-135M-Instruct.Q4_1.gguf --out model"

app = typer.Typer(
    help="Base models: from elsewhere, made ready for a study.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def _group() -> None:
    """Commands about base models."""


@app.command(name="import", epilog=IMPORT_EXAMPLE)
def import_(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A .gguf file, a model's folder, or a hub name such as owner/model.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The new folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="The result as one JSON object.")] = False,
) -> None:
    """Write a model as a folder of safetensors with its tokenizer, and print the digest that a study pins.

    All of it is written, or nothing. The licence is noted as the source states it: read it before you use the model.
    """
    from secfed.errors import printable
    from secfed.models.libraries import settle_libraries

    settle_libraries()
    from secfed.models.model_import import as_dict, import_model

    if not as_json:
        typer.echo(f"reading {source} ...", err=True)
    found = import_model(source, out)
    if as_json:
        typer.echo(json.dumps({"out": str(out), **as_dict(found)}))
        return
    lines = [
        f"{out} is a base model",
        f"  digest        {found.digest}",
        f"  architecture  {found.architecture}, {found.parameters:,} parameters",
        f"  licence       {found.licence}",
        f"  chat          {'it has a chat template' if found.chat_template else 'it has no chat template'}",
    ]
    typer.echo("\n".join(printable(line) for line in lines))
