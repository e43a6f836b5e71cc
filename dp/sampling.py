"""Which patients take part in a step, and with which records.

Poisson sampling: every patient is in or out by a coin of its own, at the same rate, which is what the accountant
assumes (Abadi et al. 2016, section 3.1). No shuffling of patients, no fixed batch size, no dropped remainder. In local
mode one record of a drawn patient is chosen, so that clipping per record is clipping per patient.

Coins and choices are keyed by the noise secret and the patient's id, not taken from a stream in order. A patient's part
therefore depends on that patient alone: removing or reordering others changes nothing for it. Every patient, drawn or
not, gets them, and they take as long for a patient with ten thousand records as for one with a single record: otherwise
a step's duration would reveal that a patient with many records is in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import TYPE_CHECKING

from crypto.randomness import NoiseSecret

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Patients:
    """Tokenised records, grouped by patient; the tensors stay as they were loaded, and a batch is a set of their
    rows."""

    inputs: Mapping[str, Tensor]
    """What the model is called with, by argument name; each of shape (records, length)."""
    labels: Tensor
    """Class indices, int64: one per record, of shape (records,), or one per position, of shape (records, positions)."""
    rows: Mapping[str, Sequence[int]]
    """Patient id -> the rows of its records, at least one."""

    def __post_init__(self) -> None:
        records = len(self.labels)
        for name, tensor in self.inputs.items():
            if len(tensor) != records:
                raise ValueError(f"input {name} has {len(tensor)} records, the labels {records}")
        if any(not rows or min(rows) < 0 or max(rows) >= records for rows in self.rows.values()):
            raise ValueError("a patient has no records, or rows that do not exist")

    def __len__(self) -> int:
        """The number of patients."""
        return len(self.rows)

    @property
    def records(self) -> int:
        """The number of records of all patients together."""
        return len(self.labels)


def record_by_record(patients: Patients) -> Patients:
    """The same records, each as a unit of its own, for data without patients.

    A record's name is the hash of its content, with a number to tell equal records apart. So a coin depends on its own
    record alone, as it does on a patient's id.
    """
    names: dict[str, int] = {}
    rows: dict[str, tuple[int, ...]] = {}
    for row in range(patients.records):
        content = [patients.inputs[name][row] for name in sorted(patients.inputs)] + [patients.labels[row]]
        name = hashlib.sha256(b"".join(part.cpu().numpy().tobytes() for part in content)).hexdigest()
        names[name] = names.get(name, 0) + 1
        rows[f"{name} {names[name]}"] = (row,)
    return Patients(patients.inputs, patients.labels, rows)


def draw(
    rows: Mapping[str, Sequence[int]], sampling_rate: float, secret: NoiseSecret, round_number: int, step: int
) -> list[int]:
    """The rows that take part in one step: one row of every drawn patient, possibly none.

    Args:
        rows: patient id -> the rows of its records.
        sampling_rate: q, the chance of every patient, in (0, 1].
        secret: this round's noise secret.
        round_number: the round, part of the name of every coin.
        step: the step in the round, part of the name of every coin.
    """
    drawn = []
    for patient, own in rows.items():
        (chosen,) = choose(own, 1, secret, "record", round_number, step, patient)
        if secret.coin(sampling_rate, "patient", round_number, step, patient):
            drawn.append(chosen)
    return drawn


def choose(own: Sequence[int], most: int, secret: NoiseSecret, *name: str | int) -> tuple[int, ...]:
    """At most `most` of a patient's rows, all equally likely, in the order of the choice.

    Makes exactly `most` keyed choices for any number of rows. All sets of rows of that size, and all orders of each,
    are equally likely to within most * len(own) / 2^128 in total variation (see `NoiseSecret.choice`).

    Args:
        own: the rows of the patient's records, at least one. The function does not iterate over them.
        most: at least 1.
        secret: this round's noise secret.
        name: begins every choice's name: round, step and patient.
    """
    places = list(islice(shuffled_rows(len(own), secret, *name), most))
    return tuple(own[place] for place in places[: len(own)])


def shuffled_rows(records: int, secret: NoiseSecret, *name: str | int) -> Iterator[int]:
    """The numbers below `records` in random order, without end: each appears once before any appears again, in a new
    order.

    Each number takes one keyed choice (the shuffle of Fisher and Yates 1938, run only as far as needed), and only moved
    places are stored. So the work does not reveal the number of records.

    Args:
        records: at least 1.
        secret: this round's noise secret.
        name: begins every choice's name.
    """
    moved: dict[int, int] = {}
    for number in count():
        at = number % records
        other = at + secret.choice(records - at, *name, number)
        moved[at], moved[other] = moved.get(other, other), moved.get(at, at)
        yield moved[at]
