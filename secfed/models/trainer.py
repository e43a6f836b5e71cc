"""What a node asks of its training, whatever does it. No torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from crypto.randomness import NoiseSecret
from secfed.rounds.strategies import Layout, ModelState

if TYPE_CHECKING:
    pass


class Trainer(Protocol):
    """The private training that a node calls; `secfed.models.training` has the real one."""

    @property
    def layout(self) -> Layout:
        """Names and shapes of the trained parameters."""
        ...

    def first_state(self) -> ModelState:
        """The first adapter, derived from the study; its moments are the chain's matter."""
        ...

    def contribute(
        self, state: ModelState, round_number: int, secret: NoiseSecret, progress: Callable[[int], None]
    ) -> NDArray[np.int64]:
        """Train from `state` for one round. The finished vector, with the noise in it, of shape (D,), as integers of
        at most the study's magnitude."""
        ...
