"""`kind = "generate"`: a text is continued, by a causal language model. Instruction tuning, and next-token training."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from secfed.study.tasks.base import Figure, TaskTable
from secfed.study.tasks.template import gaps

_SHOWN = 120


class GenerateTask(TaskTable):
    """The answer is learnt, the prompt is given. Both are templates over a record's columns.

    A record has `model.max_length` tokens: `answer_tokens` of them for the answer, the rest for the prompt. What is
    learnt is the answer's tokens and the end of the text, where it fits: a longer answer is cut at its end. A longer
    prompt loses its beginning, because its end says what is asked for. An empty prompt makes it next-token training.
    """

    kind_name: ClassVar[str] = "generate"
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure("loss", "loss", "The mean loss of an answer's token, in nats,", False),
        Figure("perplexity", "perplexity", "Perplexity, e to the power of that loss,", False),
        Figure("token_accuracy", "token accuracy", "The share of answers' tokens that are foretold", True),
    )

    kind: Literal["generate"] = "generate"
    prompt: str = Field(max_length=20_000)
    """A template: `{column}` for what a record has, braces that are meant twice."""
    answer: str = Field(min_length=1, max_length=20_000)
    """A template that names one column at least."""
    answer_tokens: int = Field(ge=2, le=8191)
    """Of each record, at the end."""
    template: Literal["plain", "chat"] = "plain"
    """`plain`: prompt and answer as they are. `chat`: as turns of user and assistant, in the chat template that the
    base's tokenizer_config.json has; its digest pins it."""

    @field_validator("prompt", "answer")
    @classmethod
    def _is_a_template(cls, value: str) -> str:
        gaps(value)
        return value

    @model_validator(mode="after")
    def _learns_from_records(self) -> GenerateTask:
        if not gaps(self.answer):
            raise ValueError("answer names no column: every record would teach the same; write {column} in it")
        if self.template == "chat" and not self.prompt.strip():
            raise ValueError('a chat answers something: give a prompt, or template = "plain"')
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*gaps(self.prompt), *gaps(self.answer)]))

    @property
    def in_short(self) -> str:
        after = f" after {_quoted(self.prompt)}" if self.prompt else ""
        return (
            f"to write {_quoted(self.answer)}{after}, {self.template}, in {self.answer_tokens} tokens, patients "
            f"identified by {self.patient_column}"
        )

    def lines(self, max_length: int) -> list[tuple[str, str]]:
        how = ", as a chat of user and assistant" if self.template == "chat" else ""
        return [
            ("task", f'learn to write an answer{how}, patients by "{self.patient_column}"'),
            ("prompt", _whole(self.prompt) if self.prompt else "none: the text itself is learnt, token by token"),
            ("answer", _whole(self.answer)),
            (
                "records",
                f"{max_length - self.answer_tokens} tokens of prompt, of which the last are kept, and "
                f"{self.answer_tokens} of answer, of which the first are; shorter ones padded",
            ),
        ]

    def check_length(self, max_length: int) -> None:
        if self.answer_tokens >= max_length:
            raise ValueError(
                f"task.answer_tokens = {self.answer_tokens} leaves no token of model.max_length = {max_length} to what "
                "comes before the answer"
            )


def _quoted(template: str) -> str:
    """The beginning, in one line."""
    return _whole(template if len(template) <= _SHOWN else f"{template[:_SHOWN]}...")


def _whole(template: str) -> str:
    """All of it, in one line: whoever signs a study is to see what is taught."""
    return '"' + template.replace("\n", "\\n") + '"'
