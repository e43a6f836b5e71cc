"""What tests read out of refusals."""

from __future__ import annotations

import re

from secfed.errors import UserError


def noise_named(error: UserError) -> float:
    """The noise multiplier that an error tells to set."""
    found = re.search(r"Set privacy.noise_multiplier to ([0-9.]+) or more", str(error))
    assert found is not None, str(error)
    return float(found[1])
