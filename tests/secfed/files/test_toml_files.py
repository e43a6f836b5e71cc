"""Whatever bytes a TOML file holds: its values, or one line that says what to mend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from secfed.engines.embedded.channel import load_simulation
from secfed.errors import UserError
from secfed.files.toml import TOML_BYTES_MAX, parse_toml
from secfed.node.policy import load_policy
from secfed.node.settings import read_node_file
from secfed.study.manifest import load_study
from tests.secfed.federation import make_study
from tests.secfed.run_folders import study_text

HOSTILE = {
    "deep lists": b"x = " + b"[" * 20_000,
    "deep tables": b"x = " + b"{x = " * 5000,
    "a number of 5000 digits": b"x = " + b"1" * 5000,
    "no UTF-8": b"\xff",
    "a name that moves the cursor": b'"\\u001b[2J\\n" = 1',
    "not a number": b"x = nan",
    "a date": b"x = 1979-05-27",
    "a long name": b"x" + b".x" * 100_000 + b" = 1",
    "a long name in quotes": b'"x"' + b' . "\\"."' * 50_000 + b" = 1",
    "a long header": b"[x" + b".'x'" * 100_000 + b"]",
    "more than 1 MiB": b"#" * (TOML_BYTES_MAX + 1),
}
LOADERS: dict[str, Callable[[Path], object]] = {
    "study": load_study,
    "policy": lambda path: load_policy(path, "hospital-0"),
    "node": read_node_file,
    "simulation": lambda path: load_simulation(path, make_study()),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.timeout(60)
def test_a_hostile_file_is_one_line_for_the_person(tmp_path: Path, loader: str, name: str) -> None:
    path = tmp_path / "file.toml"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(UserError) as caught:
        LOADERS[loader](path)
    assert str(caught.value).isprintable()


def test_a_study_nested_a_little_less_than_the_parser_allows_is_one_line_too(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    for depth in range(100, 500, 20):
        path.write_bytes(b"x = " + b"[" * depth + b"]" * depth)
        with pytest.raises(UserError):
            load_study(path)


def test_a_node_that_is_cut_off_and_does_not_exist_does_not_reach_the_terminal_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "simulation.toml"
    path.write_text('[[cut]]\nnode = "\\u001b[2J\\n"\nround = 1\nfrom = "advertise"\n')
    with pytest.raises(UserError, match="not in the roster") as caught:
        load_simulation(path, make_study())
    assert str(caught.value).isprintable()


def test_dots_in_texts_are_no_dotted_names(tmp_path: Path) -> None:
    text = study_text().replace(
        "A test", "Version 1.2.3 of the wards a.b.c. See below ................................"
    )
    path = tmp_path / "study.toml"
    path.write_text(text)
    assert load_study(path).purpose.startswith("Version")


def test_one_long_word_is_searched_once(tmp_path: Path) -> None:
    path = tmp_path / "file.toml"
    path.write_text(f"purpose = '{'x' * 900_000}'")
    assert len(parse_toml(path.read_bytes(), path)["purpose"]) == 900_000
