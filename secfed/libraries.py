"""Set up the heavy libraries, before they are imported."""

from __future__ import annotations

import logging
import os


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
