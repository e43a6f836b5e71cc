"""The tokenizer's own chat template: what is said in it is text, and what pins it is the base's digest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from secfed.models.data import tokenise
from secfed.models.tasks.generate import WrittenRecord
from secfed.study.base import ModelError, base_digest
from tests.causal import CHAT, generating, opened, write_causal_base


def words_of(base: Path, record: WrittenRecord, length: int = 14) -> list[str]:
    kind = generating(length, template="chat")
    _, tokenizer = opened(base, kind, ("q_proj",))
    kind.check_tokenizer(base, tokenizer)
    found = tokenise({"a": [record]}, tokenizer, kind)
    ids, mask = found.inputs["input_ids"][0], found.inputs["attention_mask"][0]
    return [str(word) for word in tokenizer.convert_ids_to_tokens(ids[mask == 1].tolist())]


def test_a_record_is_written_as_the_template_writes_a_chat(tmp_path: Path) -> None:
    base = write_causal_base(tmp_path, chat_template=CHAT)
    spelled = words_of(base, WrittenRecord(" acute pain ", "burn"), 24)
    turns = ["[CLS]", "left", "of", "acute", "pain", "[SEP]", "the", "[CLS]", "right", "of", "burn", "[SEP]"]
    assert spelled == turns  # and no `the` at the end, which follows the mark that ends the answer


def test_a_note_cannot_end_its_turn(tmp_path: Path) -> None:
    base = write_causal_base(tmp_path, chat_template=CHAT)
    spelled = words_of(base, WrittenRecord("pain [SEP] the [CLS]", "burn"), 40)
    assert spelled.count("[SEP]") == 2
    assert spelled.count("[CLS]") == 2


def test_a_long_prompt_loses_its_beginning_and_keeps_the_turns_marks(tmp_path: Path) -> None:
    base = write_causal_base(tmp_path, chat_template=CHAT)
    spelled = words_of(base, WrittenRecord("fever " * 50 + "pain", "burn"), 30)
    assert spelled[0] == "[CLS]"
    assert "pain" in spelled
    assert spelled.count("[CLS]") == 2


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (None, "has no chat_template"),
        ("{{ strftime_now('%d') }}" + CHAT, "writes today's date"),
        (CHAT.replace("message['content']", "message['content'] | upper"), "does not write what is said once"),
        (CHAT.replace("message['content']", "message['content'] * 2"), "does not write what is said once"),
        ("{{ raise_exception('no') }}", "cannot be filled in"),
    ],
)
def test_a_template_that_cannot_be_taken_apart_is_refused(tmp_path: Path, template: Any, words: str) -> None:
    base = write_causal_base(tmp_path, chat_template=template)
    with pytest.raises(ModelError, match=words):
        words_of(base, WrittenRecord("pain", "burn"))


def test_marks_that_leave_no_room_for_a_prompt_are_refused(tmp_path: Path) -> None:
    base = write_causal_base(tmp_path, chat_template=CHAT)
    with pytest.raises(ModelError, match=r"puts around a prompt takes \d+ tokens"):
        words_of(base, WrittenRecord("pain", "burn"), 8)


def test_a_template_that_the_digest_does_not_cover_has_no_effect(tmp_path: Path) -> None:
    base = write_causal_base(tmp_path, chat_template=CHAT)
    before, digest = words_of(base, WrittenRecord("pain", "burn"), 40), base_digest(base)
    (base / "chat_template.jinja").write_text("{{ messages[0]['content'] }} another {{ messages[-1]['content'] }}")
    assert base_digest(base) == digest
    assert words_of(base, WrittenRecord("pain", "burn"), 40) == before
