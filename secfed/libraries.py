"""Set up the heavy libraries, and ask for the optional one, before they are imported."""

from __future__ import annotations

import importlib.util
import logging
import os

from secfed.errors import UserError


def settle_libraries() -> None:
    """Keep model libraries from drawing progress bars and warning about what this program does on purpose.

    And threads that wait for work must not spin: on a machine with other work that makes training several times slower.
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
        raise UserError("NVIDIA FLARE is not installed", "Install it: `pip install 'secfed[flare]'`")
