"""The doctor at the aggregator: each planted fault is found and named, with how to mend it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from secfed.doctor import examine_aggregator
from tests.homes import Hospitals
from tests.secfed.findings import failed, states


@pytest.fixture
def aggregator(hospitals: Hospitals, tmp_path: Path) -> Path:
    folder = tmp_path / "aggregator"
    study = folder / "studies" / hospitals.study.digest.hex()
    study.mkdir(parents=True)
    shutil.copy(hospitals.study_path, study / "study.toml")
    shutil.copytree(hospitals.homes[0].path / "models", folder / "models")
    return folder


def test_a_healthy_aggregator_has_no_finding_that_failed(aggregator: Path) -> None:
    assert states(examine_aggregator(aggregator, None)) == set()


def wrong_folder(aggregator: Path) -> None:
    (study,) = (aggregator / "studies").iterdir()
    study.rename(study.with_name("0" * 64))


def no_base(aggregator: Path) -> None:
    shutil.rmtree(aggregator / "models")


def open_folder(aggregator: Path) -> None:
    aggregator.chmod(0o777)


def no_study(aggregator: Path) -> None:
    (study,) = (aggregator / "studies").iterdir()
    (study / "study.toml").write_text("format = 2\n")


def false_signatures(aggregator: Path) -> None:
    (study,) = (aggregator / "studies").iterdir()
    (study / "signatures.json").write_text('{"signatures": {}}')


def file_from_tomorrow(aggregator: Path) -> None:
    os.utime(aggregator / "models" / "model" / "config.json", (time.time() + 86_400,) * 2)


@pytest.mark.parametrize(
    ("plant", "check", "text", "fix"),
    [
        (wrong_folder, "study", "is another one", "its own digest for a name"),
        (no_base, "base of", "none of 0 base models", "copy its folder"),
        (open_folder, "folder", "mode 0777", "chmod go-w"),
        (no_study, "study", "study.toml", "Mend it"),
        (false_signatures, "study", "not the study that the nodes signed", "secfed study sign"),
        (file_from_tomorrow, "clock", "config.json was written here at", "NTP"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_fault_at_the_aggregator_is_found_with_its_fix(
    aggregator: Path, plant: Callable[[Path], None], check: str, text: str, fix: str
) -> None:
    plant(aggregator)
    found = [each for each in failed(examine_aggregator(aggregator, None)) if each.check.startswith(check)]
    assert any(text in each.text and fix in each.fix for each in found), found
