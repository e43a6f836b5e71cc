"""A tokenizer's own chat template, taken apart: the marks around what user and assistant say.

What they say is never put into the template: a note that spells out the mark of a turn's end would end it. The template
is rendered once around two words that nobody says, its marks are read as tokens, and records are put between them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secfed.study.base import ModelError

_USER, _ASSISTANT = "quzkwjxuser", "quzkwjxassistant"
"""What is rendered in place of a record's texts: in no template."""
_WRITE_IT_OUT = 'Use template = "plain" in the study\'s [task], or another base'
_TODAY = "strftime_now"


@dataclass(frozen=True, slots=True)
class Marks:
    """Tokens around prompt and answer."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    text: Callable[[str], str]
    """What becomes of a record's text before it is read."""


def pinned_template(base: Path) -> str | None:
    """The chat template in a base's tokenizer_config.json, which its digest covers; None where there is none.

    transformers would prefer a file chat_template.jinja, which the digest does not cover: it is not looked at.
    """
    try:
        found = json.loads((base / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError, AttributeError):
        return None
    if isinstance(found, list):  # several, by name
        named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def chat_marks(tokenizer: Any) -> Marks:
    """The marks that the tokenizer's chat template puts around a user's turn and the assistant's.

    Args:
        tokenizer: as `secfed.models.model.load_tokenizer` gives it, with the template that is pinned.

    Raises:
        ModelError: it has no template, or one that cannot be taken apart.
    """
    template = tokenizer.chat_template
    if not isinstance(template, str):
        raise ModelError(
            "the base's tokenizer_config.json has no chat_template",
            "`secfed model import` writes one there that lies in a file of its own; or use template = "
            '"plain" in the study\'s [task]',
        )
    if _TODAY in template:
        raise ModelError("the base's chat template writes today's date: a record would change every day", _WRITE_IT_OUT)
    said = [{"role": "user", "content": _USER}]
    asked = _rendered(tokenizer, said, True)
    answered = _rendered(tokenizer, [*said, {"role": "assistant", "content": _ASSISTANT}], False)
    if asked.count(_USER) != 1 or answered.count(_ASSISTANT) != 1:
        raise ModelError("the base's chat template does not write what is said once, as it is", _WRITE_IT_OUT)
    before, between = asked.split(_USER)
    after = _marks(tokenizer, answered.split(_ASSISTANT)[1])
    special = set(tokenizer.all_special_ids)
    ends = [place for place, token in enumerate(after) if token in special]
    ended = after[: ends[0] + 1] if ends else (*after, tokenizer.eos_token_id)
    return Marks(_marks(tokenizer, before), _marks(tokenizer, between), ended, str.strip)


def _rendered(tokenizer: Any, said: list[dict[str, str]], asks: bool) -> str:
    try:
        found: str = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=asks)
    except Exception as error:  # whatever the template raises
        raise ModelError(
            f"the base's chat template cannot be filled in ({type(error).__name__})", _WRITE_IT_OUT
        ) from error
    return found


def _marks(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
