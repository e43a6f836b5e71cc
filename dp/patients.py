"""One patient's part in a step: which records, their gradients together, clipped once, as whole numbers.

The unit is the patient with all records. Coins and record choices are keyed by the noise secret and the patient's id,
the gradients of a patient's records are added up in the order of that choice, and the sum is clipped *once*: clipping
records and then adding them up has a sensitivity of G times C. The result is rounded toward zero onto a grid, where the
norm cannot grow, and its norm is checked again in integers: what does not fit is zero.

Where C follows the gradients (Andrew et al. 2021), each part also says whether it was shortened. That element counts
like any other: gradient and indicator share the one length, because an element beside it would cost extra.

A part must depend on its own patient alone, to the last bit. If another patient's absence moved it by one step of the
grid, the sensitivity would be that of all parts together. So nothing here adds floating-point numbers in an order that
a library may choose: norms are sums of squares of whole numbers, and the rest is elementwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crypto.randomness import NoiseSecret
from dp.sampling import choose
from dp.step_plan import gradient_grid

_KEPT_BITS = 26
"""A gradient is taken to so many bits below its largest element: more than float32 has."""
_CHUNK = 1 << 10
"""So many squares of 26-bit numbers add up below 2^62."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One drawn patient."""

    patient: str
    rows: tuple[int, ...]
    """Its chosen records, in the order of the choice."""


def draw_patients(
    rows: Mapping[str, Sequence[int]], sampling_rate: float, most_records: int, secret: NoiseSecret, round_number: int
) -> list[Drawn]:
    """Who takes part in a step: every patient by a coin of its own, with at most G of its records, chosen afresh.

    Every patient costs one coin and G choices, drawn or not, and however many records it has.

    Args:
        rows: patient id -> the rows of its records.
        sampling_rate: q, the same for every patient at every hospital, in (0, 1].
        most_records: G, at least 1.
        secret: this step's noise secret.
        round_number: the step; part of the name of every coin and choice.
    """
    drawn = []
    for patient, own in rows.items():
        chosen = choose(own, most_records, secret, "record", round_number, patient)
        if secret.coin(sampling_rate, "patient", round_number, patient):
            drawn.append(Drawn(patient, chosen))
    return drawn


def patient_vectors(
    drawn: Sequence[Drawn],
    batches: Iterable[NDArray[np.float32]],
    dimension: int,
    clip: float,
    grid: int,
    indicator: int = 0,
) -> Iterator[NDArray[np.int64] | None]:
    """The finished vector of every drawn patient, in the order of the draw; None where it is not finite.

    A patient's records follow one another, so that only one patient is open at a time, across batches. The same memory
    serves all patients, because fresh memory takes longer than the arithmetic.

    Args:
        drawn: the drawn patients, each with at least one record.
        batches: gradients of the records in the order of the draw, then of fillers, each of shape (records, D). All
            batches are taken, whether or not a patient is left for them. Each may go when the next is asked for.
        dimension: D.
        clip: C, the largest L2 norm of a patient's gradient.
        grid: steps per C, at most 2^26.
        indicator: as `clipped_integers`.

    Yields:
        As `clipped_integers`; valid until the next is asked for.
    """
    records = [len(entry.rows) for entry in drawn]
    place = added = 0
    gradient = np.empty(dimension, dtype=np.float64)
    vector = np.empty(dimension + bool(indicator), dtype=np.int64)
    for batch in batches:
        for row in batch:
            if place == len(records):
                break
            if added:
                gradient += row
            else:
                gradient[:] = row
            added += 1
            if added == records[place]:
                yield vector if _clip_into(vector, gradient, clip, grid, indicator) else None
                place, added = place + 1, 0


def clip_nobody(count: int, dimension: int, clip: float, grid: int, indicator: int = 0) -> None:
    """For `count` patients who were not drawn, do the work that is done for those who were, with made-up gradients.

    How long a step takes would otherwise tell how many were.
    """
    gradient = np.empty(dimension, dtype=np.float64)
    vector = np.empty(dimension + bool(indicator), dtype=np.int64)
    total = np.zeros(vector.size, dtype=np.int64)
    for _ in range(count):
        gradient.fill(clip)
        _clip_into(vector, gradient, clip, grid, indicator)
        total += vector


def clipped_integers(
    gradient: NDArray[np.float64], clip: float, grid: int, indicator: int = 0
) -> NDArray[np.int64] | None:
    """A patient's gradient, scaled down to norm C where it is longer, on a grid of `grid` steps per C.

    With an indicator it shares that length with one element more, which says whether the gradient was shortened: it is
    `indicator` steps up where it was not, and down where it was. C is `gradient_grid` steps then.

    Args:
        gradient: of shape (D,): the sum over the patient's records.
        clip: C, the largest L2 norm.
        grid: steps that the vector is long at most, at most 2^26.
        indicator: steps of it that the indicator takes, below `grid`; 0 for none.

    Returns:
        int64 of shape (D,), or (D + 1,) with an indicator, with a sum of squares of at most grid^2; None if the
        gradient is not finite.
    """
    vector = np.empty(gradient.size + bool(indicator), dtype=np.int64)
    return vector if _clip_into(vector, gradient.copy(), clip, grid, indicator) else None


def _clip_into(
    vector: NDArray[np.int64], gradient: NDArray[np.float64], clip: float, grid: int, indicator: int
) -> bool:
    """As `clipped_integers`, into `vector`, using up the gradient's memory; False if the gradient is not finite."""
    size, length = gradient.size, gradient_grid(grid, indicator)
    largest = float(max(gradient.max(), -gradient.min())) if size else 0.0
    if not math.isfinite(largest):
        return False
    vector[size:] = indicator
    if largest * length < clip:  # not a step of the grid anywhere; zero, and numbers too small to be scaled, among them
        vector[:size] = 0
        return True
    # A power of two moves no bit; what is cut off lies 26 bits below the largest element.
    shift = _KEPT_BITS - math.frexp(largest)[1]
    whole = np.trunc(np.ldexp(gradient, shift, out=gradient), out=gradient)
    vector[:size] = whole
    squares = square_sum(vector[:size])
    norm = math.isqrt(squares)
    norm += norm * norm < squares  # rounded up: a longer divisor only shortens
    longest = math.ldexp(clip, shift)
    if norm > longest:
        vector[size:] = -indicator
    whole *= length / max(norm, longest)
    vector[:size] = np.trunc(whole, out=whole)
    if square_sum(vector) > grid * grid:
        vector[:] = 0
    return True


def square_sum(values: NDArray[np.int64]) -> int:
    """The sum of squares of integers of at most 26 bits, exactly.

    Raises:
        ValueError: an element is larger.
    """
    if values.size and max(int(values.max()), -int(values.min())) > 1 << _KEPT_BITS:
        raise ValueError(f"an element has more than {_KEPT_BITS} bits")
    squares = values * values
    return sum(int(part) for part in np.add.reduceat(squares, np.arange(0, squares.size, _CHUNK))) if values.size else 0
