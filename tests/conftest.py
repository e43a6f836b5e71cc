"""Set up before torch is imported: stops idle threads from busy-waiting, which slows tests down on a shared machine.

The fixtures here import torch when they are used: most tests need none.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from secfed.models.model import AdapterModel

# What a shell starts in the background is deaf to Ctrl-C, and so is what that starts, unless it has a handler.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Every core has a process of its own already. What tests start inherits it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# For tests that name no number of examples of their own; `make test-all` takes the second.
settings.register_profile("quick", deadline=None, max_examples=25)
settings.register_profile("sweep", deadline=None, max_examples=100)
settings.load_profile("quick")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads cost more than they save on a model as small as the tiny one."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base model's folder."""
    from tests.tiny import make_tiny_base

    return make_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def adapter(base: Path) -> AdapterModel:
    """The tiny model, moved a little off its start: at B = 0 there is less to go wrong."""
    import numpy as np

    from tests.tiny import make_tiny_model

    model = make_tiny_model(base)
    state = model.get_state()
    model.set_state(state + np.linspace(-0.05, 0.05, state.size, dtype=np.float32))
    return model
