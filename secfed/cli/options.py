"""Options that several command groups have."""

from __future__ import annotations

from typing import Annotated

import typer

from secfed.models.data.rows import Encoding

TextEncoding = Annotated[Encoding, typer.Option("--encoding", help="How a file of text is written; see docs/data.md.")]
