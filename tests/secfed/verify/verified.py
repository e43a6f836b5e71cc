"""What the tests of the verifier share: a run's folder, and what is found in it."""

from __future__ import annotations

from pathlib import Path

from protocols.wire import Limits
from secfed.verify.folder import verify_folder

WEIGHTS = "adapter/adapter_model.safetensors"
LIMITS = Limits(5, 1 << 20)


def problem_in(folder: Path) -> tuple[str, str]:
    problem = verify_folder(folder).problem
    assert problem is not None, "nothing was found"
    return problem.place, problem.reason
