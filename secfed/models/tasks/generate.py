"""Causal language models: a prompt is given, and the tokens of an answer are learnt.

Every record has the same shape. The prompt's tokens come first, padded on the left; the answer's follow, padded on the
right: the answer's first token is at the same place in all of them. Nothing is packed. A record's loss is the mean over
its own answer's tokens and the end of the text, where it fits. A prompt that is too long loses its beginning, because
its end says what is asked for; an answer that is too long loses its end.

All of a record is text: what looks like a special token is spelled out. The tokens that a tokenizer puts before every
text stay before it; those that it puts behind do not. With `template = "chat"` the turns' marks come from the template
in the base's tokenizer_config.json, which the base's digest covers; prompt and answer are put between them, without
blanks around.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from secfed.models.data.faults import BadRow
from secfed.models.data.records import text_of
from secfed.models.data.rows import Row
from secfed.models.tasks.base import _ANOTHER, Kind, Reading
from secfed.models.tasks.chat import Marks, chat_marks
from secfed.study.base import ModelError
from secfed.study.tasks import GenerateTask
from secfed.study.tasks.template import filled, gaps

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dp.sampling import Patients

_BATCH = 1024
_LARGEST_EXPONENT = 700.0
"""exp of more is no float."""


@dataclass(frozen=True, slots=True)
class WrittenRecord:
    """One text of one patient, and what it is the answer to."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class _Tokens:
    """One record as the model is shown it, without padding."""

    prompt: list[int]
    answer: list[int]
    own: list[int]
    """Those of the record's texts alone."""
    cut: bool

    @property
    def learnt(self) -> bool:
        """The first token of a text is not foretold: nothing comes before it."""
        return len(self.answer) > (not self.prompt)


class Generate(Kind[GenerateTask, WrittenRecord]):
    """The answer's tokens, one after another."""

    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    peft_task: ClassVar[str] = "CAUSAL_LM"
    head: ClassVar[str] = ""
    why_no_pair: ClassVar[str] = "is no causal language model"

    @property
    def purpose(self) -> str:
        return "writing text"

    @property
    def prompt_tokens(self) -> int:
        """Of every record, the first."""
        return self.max_length - self.table.answer_tokens

    def record_of(self, row: Row) -> WrittenRecord:
        def text_or_blank(column: str) -> str:
            value = row.values.get(column)
            return "" if isinstance(value, str) and not value.strip() else text_of(row, column)

        answer = filled(self.table.answer, text_or_blank)
        if not any(text_or_blank(column) for column in gaps(self.table.answer)):
            raise BadRow(row.place, "has no text in any column of task.answer", "Leave records without an answer out")
        return WrittenRecord(filled(self.table.prompt, text_or_blank), answer)

    def content(self, record: WrittenRecord) -> tuple[str, tuple[int, ...]]:
        return f"{record.prompt}\n{record.answer}", ()

    def readings(self, records: Sequence[WrittenRecord], tokenizer: Any) -> Iterator[Reading]:
        for tokens in self._tokens(records, tokenizer):
            yield Reading(tokens.own, tokens.cut, tokens.learnt)

    def tensors(self, records: Sequence[WrittenRecord], tokenizer: Any) -> tuple[dict[str, Tensor], Tensor]:
        import torch

        from dp.training import IGNORED

        shape, start = (len(records), self.max_length), self.prompt_tokens
        tokens = torch.full(shape, int(tokenizer.pad_token_id), dtype=torch.int64)
        mask = torch.zeros_like(tokens)
        labels = torch.full((len(records), self.table.answer_tokens), IGNORED, dtype=torch.int64)
        for row, found in enumerate(self._tokens(records, tokenizer)):
            first, end = start - len(found.prompt), start + len(found.answer)
            tokens[row, first:end], mask[row, first:end] = torch.tensor(found.prompt + found.answer), 1
            labels[row, : len(found.answer)] = torch.tensor(found.answer)
            if not found.prompt:
                labels[row, 0] = IGNORED
        return {"input_ids": tokens, "attention_mask": mask}, labels

    def _tokens(self, records: Sequence[WrittenRecord], tokenizer: Any) -> Iterator[_Tokens]:
        marks = self._marks(tokenizer)
        room = self.prompt_tokens - len(marks.before) - len(marks.between)
        for start in range(0, len(records), _BATCH):
            batch = records[start : start + _BATCH]
            prompts = _ids([marks.text(record.prompt) for record in batch], tokenizer)
            answers = _ids([marks.text(record.answer) for record in batch], tokenizer)
            for prompt, answer in zip(prompts, answers, strict=True):
                kept = prompt[len(prompt) - min(len(prompt), room) :]
                ended = [*answer, *marks.after][: self.table.answer_tokens]
                yield _Tokens(
                    [*marks.before, *kept, *marks.between],
                    ended,
                    [*kept, *answer[: self.table.answer_tokens]],
                    len(prompt) > room or len(answer) > self.table.answer_tokens,
                )

    def _marks(self, tokenizer: Any) -> Marks:
        if self.table.template == "chat":
            return chat_marks(tokenizer)
        whole = tokenizer("a", return_special_tokens_mask=True)
        added = whole["special_tokens_mask"]
        leading = whole["input_ids"][: added.index(0) if 0 in added else 0]
        return Marks(tuple(leading), (), (tokenizer.eos_token_id,), lambda text: text)

    def made_up(self, vocabulary: int, padding: int) -> Patients:
        import torch

        from dp.guards import made_up_tokens
        from dp.sampling import Patients
        from dp.training import IGNORED

        start = self.prompt_tokens
        tokens = made_up_tokens(3, self.max_length, vocabulary)
        mask = torch.ones_like(tokens)
        for record in (1, 2):  # the first is full, these are padding on both sides
            mask[record, : start - max(1, start // (record + 1))] = 0
            mask[record, start + max(1, self.table.answer_tokens // (record + 1)) :] = 0
        tokens = torch.where(mask == 1, tokens, padding)
        labels = torch.where(mask == 1, tokens, IGNORED)[:, start:]
        rows = {f"made up {record}": (record,) for record in range(len(tokens))}
        return Patients({"input_ids": tokens, "attention_mask": mask}, labels, rows)

    # The model.

    def check_tokenizer(self, base: Path, tokenizer: Any) -> None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                f"the tokenizer in {base} has no end-of-text token, so that a model could not learn where to end",
                "Name its eos_token in tokenizer_config.json, and have a study with the new digest signed",
            )
        marks = self._marks(tokenizer)
        around = len(marks.before) + len(marks.between)
        if around > self.prompt_tokens - bool(self.table.prompt):
            raise ModelError(
                f"what the tokenizer in {base} puts around a prompt takes {around} tokens, and a prompt has "
                f"{self.prompt_tokens} of model.max_length",
                "Have a study with a larger model.max_length or fewer task.answer_tokens signed",
            )

    def wrapped(self, module: nn.Module) -> nn.Module:
        from secfed.models.tasks.positions import AnswerPositions, lacks

        missing = lacks(module.get_base_model())  # type: ignore[operator]
        if missing:
            raise ModelError(
                f"the base model takes no {' and no '.join(missing)}, so that its answers cannot be found", _ANOTHER
            )
        return AnswerPositions(module, self.table.answer_tokens)

    def check_model(self, module: nn.Module, made_up: Patients) -> None:
        """Refuse one that sees what it is to foretell: an encoder that was loaded as if it wrote."""
        import torch

        inputs = {name: tensor[:1].clone() for name, tensor in made_up.inputs.items()}
        with torch.inference_mode():
            before = module(**inputs).logits
            inputs["input_ids"][0, -1] = (inputs["input_ids"][0, -1] + 1) % before.shape[-1]
            after = module(**inputs).logits
        if not torch.allclose(before, after, rtol=1e-4, atol=1e-4 * float(before.abs().max())):
            raise ModelError(
                "the base model sees the token that it is to foretell: it is no causal language model", _ANOTHER
            )

    def measured(self, module: nn.Module, held_out: Patients) -> dict[str, float]:
        from secfed.models.tasks.positions import over_positions

        found = over_positions(module, held_out)
        perplexity = math.exp(min(found.loss, _LARGEST_EXPONENT))
        return {"loss": found.loss, "perplexity": perplexity, "token_accuracy": found.accuracy}


def _ids(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Token ids of texts, whole, without any that the tokenizer would add."""
    found: list[list[int]] = tokenizer(
        list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False, return_attention_mask=False
    )["input_ids"]
    return found
