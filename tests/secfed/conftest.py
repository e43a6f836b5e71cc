"""Fixtures of more than one test module: a federation, and a run's folder to damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.homes import Hospitals, approve_at, make_hospitals
from tests.secfed.federation import Federation, cut, make_study
from tests.secfed.run_folders import write_run


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(make_study(), tmp_path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Federation]:
    """Four rounds: one of them without hospital-2, and one void after the uploads."""
    base = tmp_path_factory.mktemp("run")
    cuts = (cut(2, 2, "masked input"), cut(0, 3, "agree"), cut(1, 3, "agree"))
    return base / "out", write_run(base / "out", base / "work", cuts)


@pytest.fixture
def folder(made: tuple[Path, Federation], tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(made[0], tmp_path / "run"))


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Hospitals:
    hospitals = make_hospitals(tmp_path_factory.mktemp("hospitals"), base)
    approve_at(hospitals.homes[0], hospitals.study_path)
    return hospitals
