"""A folder of data files with one defect each, which they are named by: the error says it, with its line, and no more.

`bad_files/expected.json` has what each error must say.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from secfed.models.data import Columns, DataError, read_patients
from tests.tiny import classifying

FOLDER = Path(__file__).parent / "bad_files"
EXPECTED: dict[str, str] = json.loads((FOLDER / "expected.json").read_text())
COLUMNS = Columns("patient", "text", "label")


def test_every_file_of_the_folder_is_expected_to_be_refused() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {*EXPECTED, "expected.json"}
    assert len(EXPECTED) >= 25


@pytest.mark.parametrize("name", EXPECTED)
def test_a_bad_file_is_refused_with_its_line_and_without_its_words(name: str) -> None:
    with pytest.raises(DataError) as refused:
        read_patients(FOLDER / name, classifying(labels=("bones", "organs")), "harbour-clinic")
    text = str(refused.value)
    assert f"{name} {EXPECTED[name]}" in text or f"{name}, {EXPECTED[name]}" in text
    assert refused.value.next_step.strip()
    assert "\n" not in text
    for secret in ("Example", "p1", "10001"):
        assert secret not in text
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None
