"""Set up the heavy libraries, and ask for the optional one, before they are imported."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shlex
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

from secfed import __version__
from secfed.errors import UserError

OWN_CODE_ONLY = {"trust_remote_code": False, "local_files_only": True}
"""For everything that transformers loads from a base's folder. If it is not told, it asks whoever sits at the terminal
whether it should run the code that comes with the model, and does so on a "y"."""


def settle_libraries() -> None:
    """Keep model libraries from drawing progress bars and warning about what this program does on purpose.

    It also stops idle threads from busy-waiting, which makes training several times slower on a shared machine.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    for name in ("transformers", "peft", "opacus", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)


def require_flare() -> None:
    """Raise UserError where the engine between machines is not installed."""
    if importlib.util.find_spec("nvflare") is None:
        raise UserError("NVIDIA FLARE is not installed", f"Install it: {how_to_add('flare')}")


def how_to_add(extra: str) -> str:
    """How this installation gets one of its extras, as a command.

    By the folder or the wheel that it came from, and never by the bare name: no index has this package, and whoever
    claims its name there could bring anything.
    """
    source, flag = _came_from()
    if source is None:
        return (
            f"`pip install './secfed-{__version__}-py3-none-any.whl[{extra}]'`, with the path of the wheel that this "
            "secfed came from"
        )
    return f"`pip install {flag}{shlex.quote(f'{source}[{extra}]')}`"


def _came_from() -> tuple[Path | None, str]:
    """The folder or wheel, as the installer noted it (PEP 610), and the option for a folder that is worked on."""
    try:
        noted = json.loads(distribution("secfed").read_text("direct_url.json") or "{}")
        address = urlsplit(noted.get("url", ""))
    except (PackageNotFoundError, ValueError, AttributeError):
        return None, ""
    if address.scheme != "file":
        return None, ""
    editable = bool(noted.get("dir_info", {}).get("editable"))
    return Path(unquote(address.path)), "--editable " if editable else ""
