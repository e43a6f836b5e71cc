"""`[task]`: three kinds, each strict; what a study of version 0.1.0 says has the digest that it had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from secfed.errors import UserError
from secfed.study.changes import write_study
from secfed.study.diff import differences
from secfed.study.manifest import Study, load_study
from secfed.study.tasks import GenerateTask, TagTask
from secfed.study.tasks.template import filled, gaps
from secfed.study.text import study_text
from tests.secfed.federation import make_study

GENERATE: dict[str, Any] = {
    "kind": "generate",
    "prompt": "Note: {subjective} {objective}\nAssessment:",
    "answer": " {assessment}",
    "answer_tokens": 5,
}
TAG: dict[str, Any] = {"kind": "tag", "labels": ["O", "B-drug"]}


def of_kind(task: dict[str, Any]) -> Study:
    return make_study().changed(task=task)


def refusal(**task: Any) -> str:
    with pytest.raises(UserError) as refused:
        of_kind({**GENERATE, **task})
    return str(refused.value)


def test_to_classify_is_what_a_study_without_a_kind_says_with_the_same_digest() -> None:
    study = make_study()
    assert study.changed(task={"kind": "classify"}).digest == study.digest
    assert "kind" not in study.model_dump()["task"]


@pytest.mark.parametrize("task", [GENERATE, {**GENERATE, "template": "chat"}, TAG], ids=["plain", "chat", "tag"])
def test_a_study_of_any_kind_is_written_and_read_again_with_its_digest(tmp_path: Path, task: dict[str, Any]) -> None:
    study = of_kind(task)
    write_study(study, tmp_path / "study.toml")
    assert load_study(tmp_path / "study.toml").digest == study.digest != make_study().digest


def test_every_value_of_a_task_is_signed_and_shown() -> None:
    study = of_kind(GENERATE)
    shown = study_text(study)
    assert '"Note: {subjective} {objective}\\nAssessment:"' in shown
    assert "3 tokens of prompt, of which the last are kept, and 5 of answer" in shown
    long = f"{'Letter. ' * 100}{{subjective}} and its very end"
    for name in ("prompt", "answer"):
        assert long in " ".join(study_text(study.changed(task={name: long})).split())
    other = study.changed(task={"prompt": "Letter: {subjective}"})
    assert other.digest != study.digest
    assert any("task.prompt" in line for line in differences(study, other))


def test_a_task_of_another_kind_drops_the_keys_that_this_kind_lacks() -> None:
    assert isinstance(of_kind(GENERATE).task, GenerateTask)
    assert isinstance(of_kind(GENERATE).changed(task=TAG).task, TagTask)


def test_everything_that_is_wrong_with_a_task_is_said_at_once() -> None:
    told = refusal(labels=["a", "b"], prompt="{open", answer="the same", unheard=1)
    for part in (
        'labels has no effect with kind = "generate"; leave it out',
        "task.unheard: this key is unknown",
        "stands alone",
    ):
        assert part in told or part in refusal(prompt="{open", unheard=1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "translate"}, "kind is one of classify, tag, generate"),
        ({"prompt": "a } b"}, "the brace at character 3 stands alone"),
        ({"prompt": "{}"}, "the brace at character 1 stands alone"),
        ({"answer": "yes"}, "answer names no column"),
        ({"answer": "{{note}}"}, "answer names no column"),
        ({"answer_tokens": 8}, "leaves no token of model.max_length = 8"),
        ({"answer_tokens": 1}, "greater than or equal to 2"),
        ({"template": "chat", "prompt": " "}, "a chat answers something"),
        ({"template": "jinja"}, "'plain' or 'chat'"),
    ],
)
def test_a_task_that_teaches_nothing_is_refused_with_the_reason(change: dict[str, Any], words: str) -> None:
    assert words in refusal(**change)


def test_two_labels_that_are_the_same_are_refused_where_words_are_tagged() -> None:
    with pytest.raises(UserError, match=r"task: two labels are the same"):
        of_kind({"kind": "tag", "labels": ["O", "O"]})


def test_a_template_takes_columns_as_text_and_braces_that_are_meant() -> None:
    template = "{a} {{a}} {größe} {a}"
    assert gaps(template) == ("a", "größe")
    values = {"a": "{größe} }{ \U0001f9ec", "größe": "1,80"}
    assert filled(template, values.__getitem__) == "{größe} }{ \U0001f9ec {a} 1,80 {größe} }{ \U0001f9ec"
