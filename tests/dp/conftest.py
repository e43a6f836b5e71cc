"""What every test of a model's layers may ask for.

Torch is imported when the fixture is used: most tests here need none.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def seeded() -> Iterator[None]:
    """Layers start the same in every run."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(13)
        yield
