"""A quick estimate of the noise that a target needs, in a tenth of a second: the start of the search for the exact
figure.

It puts one step's privacy loss, of a sampled Gaussian for one unit removed, on an even grid, and composes all steps by
one Fourier transform (Koskela et al. 2020). The result is an estimate, not a bound, and is never promised: only the
accountant's figure (`dp.accounting`) is.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

_CELLS = 1 << 15
_PLACES = 6001
_HALVINGS = 24


@lru_cache(maxsize=256)
def estimated_noise(target_epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """About the smallest noise multiplier whose epsilon is at most the target; from 1/16 to 4096.

    Args:
        target_epsilon: positive.
        delta: in (0, 1).
        sampling_rate: q, in (0, 1].
        steps: at least 1.
    """
    low, high = math.log(1 / 16), math.log(4096)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _delta_at(target_epsilon, math.exp(middle), sampling_rate, steps) <= delta:
            high = middle
        else:
            low = middle
    return math.exp(high)


def _delta_at(epsilon: float, sigma: float, rate: float, steps: int) -> float:
    """Approximate delta at this epsilon; 1 where the mean loss is far beyond it."""
    places = np.linspace(-12 * sigma, 1 + 12 * sigma, _PLACES)
    loss = np.logaddexp(np.log1p(-rate) if rate < 1 else -np.inf, np.log(rate) + (2 * places - 1) / (2 * sigma**2))
    weight = np.exp(loss - places**2 / (2 * sigma**2))
    weight /= weight.sum()
    reach = 4 * epsilon + 2
    if steps * float(weight @ loss) > reach / 2:
        return 1.0
    beyond = float(weight[loss > reach].sum())
    kept = loss <= reach
    # Each weight goes to the two cells around its loss, which preserves the mean.
    at = (np.maximum(loss[kept], -reach) + reach) * ((_CELLS // 2) / reach)
    below = np.minimum(at.astype(np.int64), _CELLS - 2)
    share = at - below
    cells = np.bincount(below, weight[kept] * (1 - share), _CELLS) + np.bincount(
        below + 1, weight[kept] * share, _CELLS
    )
    composed = np.fft.irfft(np.fft.rfft(np.roll(cells, -_CELLS // 2)) ** steps, _CELLS)
    losses = np.fft.fftfreq(_CELLS) * 2 * reach
    above = losses > epsilon
    return float(composed[above] @ -np.expm1(epsilon - losses[above])) + 1 - (1 - beyond) ** steps
