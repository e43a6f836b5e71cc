"""One patient's part in a step: the chosen records, and the sum of their gradients, clipped once, in whole numbers.

The unit is the patient with all records. Coins and record choices are keyed by the noise secret and the patient's id,
the gradients of a patient's records are added up in the order of that choice, and the sum is clipped *once*: clipping
records and then adding them up has a sensitivity of G times C. The result is rounded toward zero onto a grid, which
cannot increase the norm, and the norm is checked again in integers: a vector that is too long becomes zero.

Where C follows the gradients (Andrew et al. 2021), each part also says whether it was shortened. That element counts
like any other: gradient and indicator share the one norm, because a separate element would cost extra.

A part must depend on its own patient alone, to the last bit. If another patient's absence moved it by one step of the
grid, the sensitivity would be that of all parts together. So nothing here adds floating-point numbers in an order that
a library may choose: norms are sums of squares of whole numbers, and everything else is elementwise.
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
"""A gradient keeps this many bits below its largest element: more than float32 has."""
_CHUNK = 1 << 10
"""This many squares of 26-bit numbers have a sum below 2^62."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One drawn patient."""

    patient: str
    rows: tuple[int, ...]
    """Its chosen records, in the order of the choice."""


def draw_patients(
    rows: Mapping[str, Sequence[int]], sampling_rate: float, most_records: int, secret: NoiseSecret, round_number: int
) -> list[Drawn]:
    """Draw who takes part in a step: every patient by a coin of its own, with at most G newly chosen records.

    Every patient takes one coin and G choices, drawn or not, for any number of records.

    Args:
        rows: patient id -> the rows of its records.
        sampling_rate: q, the same for every patient at every site, in (0, 1].
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
    """The finished vector of every drawn patient, in the order of the draw; None where the gradient is not finite.

    A patient's records follow one another, so only one patient is in progress at a time, across batches. All patients
    share the same memory, because allocating memory takes longer than the arithmetic.

    Args:
        drawn: the drawn patients, each with at least one record.
        batches: gradients of the records in the order of the draw, then of fillers, each of shape (records, D). All
            batches are consumed, even if no patient is left for them. Each may become invalid when the next is
            requested.
        dimension: D.
        clip: C, the largest L2 norm of a patient's gradient.
        grid: steps per C, at most 2^26.
        indicator: as `clipped_integers`.

    Yields:
        As `clipped_integers`; valid until the next is requested.
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
    """Do the work of `count` drawn patients on made-up gradients, in place of patients who were not drawn.

    Otherwise a step's duration would reveal how many were drawn.
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

    With an indicator the gradient shares that norm with one more element, which says whether the gradient was
    shortened: `indicator` steps up if it was not, and down if it was. C is then `gradient_grid` steps.

    Args:
        gradient: of shape (D,): the sum over the patient's records.
        clip: C, the largest L2 norm.
        grid: the vector's largest norm in steps of the grid, at most 2^26.
        indicator: the indicator's size in steps, below `grid`; 0 for none.

    Returns:
        int64 of shape (D,), or (D + 1,) with an indicator, with a sum of squares of at most grid^2; None if the
        gradient is not finite.
    """
    vector = np.empty(gradient.size + bool(indicator), dtype=np.int64)
    return vector if _clip_into(vector, gradient.copy(), clip, grid, indicator) else None


def _clip_into(
    vector: NDArray[np.int64], gradient: NDArray[np.float64], clip: float, grid: int, indicator: int
) -> bool:
    """As `clipped_integers`, into `vector`, overwriting the gradient; False if the gradient is not finite."""
    size, length = gradient.size, gradient_grid(grid, indicator)
    largest = float(max(gradient.max(), -gradient.min())) if size else 0.0
    if not math.isfinite(largest):
        return False
    vector[size:] = indicator
    if largest * length < clip:  # below one step of the grid everywhere: zeros, and numbers too small to scale
        vector[:size] = 0
        return True
    # Scaling by a power of two is exact; only what lies 26 bits below the largest element is cut off.
    shift = _KEPT_BITS - math.frexp(largest)[1]
    whole = np.trunc(np.ldexp(gradient, shift, out=gradient), out=gradient)
    vector[:size] = whole
    squares = square_sum(vector[:size])
    norm = math.isqrt(squares)
    norm += norm * norm < squares  # rounded up: a larger divisor only shortens
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
