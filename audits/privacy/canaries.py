"""Synthetic patients that an audit can find again in a sum, and the model in which they are found.

The model is one linear layer without bias, at weight zero, whose second logit it gives while the first is 0. A record
with the features s e_i and the first label then has a cross-entropy gradient of s/2 e_i: one coordinate, and canaries
with different coordinates do not interfere. Every record's gradient alone has a norm of at least C, so that clipping a
patient's records together and clipping them one by one differ as much as possible.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from dp.sampling import Patients
from secfed.models.model import AdapterModel, LoraSettings
from secfed.models.tasks.classify import Classify
from secfed.study.tasks import ClassifyTask

NOWHERE = -1
"""The coordinate of a record whose gradient is zero."""


class CanaryModel(nn.Module):
    """Logits (0, w x) at w = 0, where x is one coordinate of a record."""

    def __init__(self, dimension: int, size: float) -> None:
        """
        Args:
            dimension: D, the number of coordinates and so the most canaries.
            size: s, the one feature of a record that is not zero.
        """
        super().__init__()
        self.layer = nn.Linear(dimension, 1, bias=False)
        nn.init.zeros_(self.layer.weight)
        self._size = size

    def forward(self, coordinates: Tensor) -> SimpleNamespace:
        """Logits of shape (records, 2), from int64 coordinates of shape (records,)."""
        features = torch.zeros(len(coordinates), self.layer.in_features)
        features.scatter_(1, coordinates.clamp(min=0)[:, None], self._size * (coordinates != NOWHERE)[:, None].float())
        logits = self.layer(features)
        return SimpleNamespace(logits=torch.cat([torch.zeros_like(logits), logits], dim=1))


def canary_adapter(dimension: int, size: float) -> AdapterModel:
    """The model in the form that trainers take: all its trained values take the place of an adapter."""
    lora = LoraSettings(1, 1, ("layer",), (), "ffa")
    return AdapterModel(
        cast(Any, CanaryModel(dimension, size)), lora, Classify(ClassifyTask(labels=("absent", "present")), 1)
    )


def canary_patients(coordinates: Sequence[int], records: int) -> Patients:
    """A site whose patients have one of these coordinates each, and one more patient who has none.

    The extra one stands for patients who are not canaries, and makes sure that the site has a patient.

    Args:
        coordinates: those of the canaries that are in.
        records: the number of records of every patient.
    """
    everybody = [*coordinates, NOWHERE]
    return Patients(
        inputs={"coordinates": torch.tensor(everybody).repeat_interleave(records)},
        labels=torch.zeros(len(everybody) * records, dtype=torch.int64),
        rows={
            f"canary-{coordinate}": range(at * records, (at + 1) * records) for at, coordinate in enumerate(everybody)
        },
    )


def canary_node(coordinates: Sequence[int], records: int) -> Patients:
    """A node whose data is all of one coordinate, or of none: then its update is zero, as if its data were absent.

    Args:
        coordinates: at most one.
        records: so many.
    """
    (coordinate,) = coordinates or [NOWHERE]
    return Patients(
        inputs={"coordinates": torch.full((records,), coordinate)},
        labels=torch.zeros(records, dtype=torch.int64),
        rows={"household": range(records)},
    )
