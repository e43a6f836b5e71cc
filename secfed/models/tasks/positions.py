"""Where a record has a label at each of several positions: figures over them, and a causal model's answer positions."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dp.sampling import Patients
from dp.training import IGNORED

_BATCH = 16


@dataclass(frozen=True, slots=True)
class OverPositions:
    """What a model does on all labelled positions of some records together."""

    loss: float
    """Mean cross-entropy of a labelled position, in nats."""
    accuracy: float
    """The share of them whose label is foretold."""


def over_positions(module: nn.Module, records: Patients) -> OverPositions:
    """Both figures; 0 where no position is labelled.

    Args:
        module: gives `.logits` of shape (records, positions, classes).
        records: with labels of shape (records, positions).
    """
    loss, right, labelled = 0.0, 0, 0
    with torch.inference_mode():
        for start in range(0, records.records, _BATCH):
            rows = slice(start, start + _BATCH)
            labels = records.labels[rows].flatten()
            logits = module(**{name: tensor[rows] for name, tensor in records.inputs.items()}).logits
            logits = logits.to(torch.float32).flatten(end_dim=1)
            loss += float(
                nn.functional.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED).double().sum()
            )
            right += int((logits.argmax(dim=1) == labels).sum())
            labelled += int((labels != IGNORED).sum())
    return OverPositions(loss / max(1, labelled), right / max(1, labelled))


class Logits(NamedTuple):
    """What `dp` asks a model for."""

    logits: Tensor


class AnswerPositions(nn.Module):
    """A causal language model whose logits are those that foretell a record's answer, and no others.

    The head of a large vocabulary costs more than the adapted layers below it, so that only these positions go through
    it, by the model's own `logits_to_keep`: scales and caps of its logits stay its own. Positions are counted from a
    record's first token, not from its padding.
    """

    def __init__(self, model: nn.Module, answer_tokens: int) -> None:
        """
        Args:
            model: a causal language model, with an adapter or without.
            answer_tokens: of every record, the last; there is at least one token before them.
        """
        super().__init__()
        self.model = model
        self.answer_tokens = answer_tokens

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Logits:
        """
        Args:
            input_ids: of shape (records, tokens).
            attention_mask: likewise; 0 for padding.

        Returns:
            Logits of shape (records, answer_tokens, vocabulary): at each place, what is foretold for the answer's token
            there.
        """
        positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
        found = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=positions,
            logits_to_keep=self.answer_tokens + 1,
            use_cache=False,
        )
        return Logits(found.logits[:, :-1])


def lacks(model: Any) -> tuple[str, ...]:
    """What `AnswerPositions` passes to a model and this one does not take."""
    taken = inspect.signature(model.forward).parameters
    return tuple(name for name in ("position_ids", "logits_to_keep") if name not in taken)
