"""Synthetic patients that an audit can find again in a sum, and the model in which they are found.

The model is one linear layer without bias, at weight zero, whose second logit it gives while the first is 0. A record
with the features s e_i and the first label then has a cross-entropy gradient of s/2 e_i: one coordinate, and canaries
with different coordinates do not meet. Every record's gradient is at least C long by itself, so that clipping a
patient's records together and clipping them one by one are as far apart as they can be.
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
            dimension: D, coordinates and thus canaries at most.
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
    """The model as trainers take it: all that it trains stands in the place of an adapter."""
    lora = LoraSettings(1, 1, ("layer",), (), "ffa")
    return AdapterModel(
        cast(Any, CanaryModel(dimension, size)), lora, Classify(ClassifyTask(labels=("absent", "present")), 1)
    )


def canary_patients(coordinates: Sequence[int], records: int) -> Patients:
    """A hospital whose patients have one of these coordinates each, and one more patient who has none.

    The one more stands for the patients who are no canaries: it makes sure that a hospital has patients at all.

    Args:
        coordinates: of the canaries that are in.
        records: of every patient.
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
    """A node whose data is all of one coordinate, or of none: what it trains is zero then, and its data hides there.

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
