"""Hospitals with homes of their own, set up as their owners would, and a small study that all of them can approve."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from secfed.demo.workspace import DemoSettings, prepare_demo
from secfed.errors import UserError
from secfed.models.data import Columns
from secfed.node.approve import approve, examine
from secfed.node.enrol import NewBudget, make_home, register
from secfed.node.home import MODELS, Home
from secfed.study.manifest import Study, load_study

SMALL = DemoSettings(patients=400, test_records_per_chapter=3, layers=(0, 1), max_length=12, steps=2, rank=2)
COLUMNS = Columns("patient", "text", "label")


@dataclass(frozen=True, slots=True)
class Hospitals:
    """What `make_hospitals` gives."""

    study_path: Path
    homes: tuple[Home, ...]
    """In roster order."""

    @property
    def study(self) -> Study:
        return load_study(self.study_path)


def make_hospitals(folder: Path, base: Path, settings: DemoSettings = SMALL, studies: int = 1) -> Hospitals:
    """Homes in `folder/homes`, whose keys the study's roster pins, and a policy in each that allows the study.

    Each population's budget pays for so many `studies` like it.
    """
    workspace = folder / "workspace"
    path = prepare_demo(workspace, base=base, settings=settings)
    study = load_study(path)
    text, homes = path.read_text(), []
    for entry in study.roster:
        budget = NewBudget(entry.patients, studies * study.privacy.epsilon, studies * study.privacy.delta, "")
        data = workspace / "sites" / entry.name / "patients.jsonl"
        home = set_up(folder / "homes" / entry.name, path, data, budget)
        text = text.replace(entry.identity, home.identity.public.raw.hex())
        homes.append(home)
    path.write_text(text)
    return Hospitals(path, tuple(homes))


def set_up(folder: Path, study_path: Path, data: Path, budget: NewBudget) -> Home:
    """A new home, with these data, the study's base model and a policy that allows the study."""
    home = make_home(folder, folder.name)
    register(home, data, "letters", f"patients of {home.name}", COLUMNS, budget)
    allow_all(home, load_study(study_path))
    shutil.copytree(study_path.parent / "model", home.path / MODELS / "model")
    return Home.open(home.path)


def allow_all(home: Home, study: Study) -> None:
    """The owner allows this study's base model, and does not narrow tasks and members."""
    path = home.path / "policy.toml"
    text = path.read_text().replace("base_models = []", f'base_models = ["{study.model.digest}"]')
    path.write_text(re.sub(r"^(tasks|members) = \[\]\n", "", text, flags=re.MULTILINE))


def approve_at(home: Home, study: Path) -> None:
    """The owner looks and says yes."""
    approve(home, examine(home, study, None), datetime.now(UTC))


def approved_at(home: Home, digest: bytes) -> Study | None:
    """The study of this digest, if its owner approved it there and nothing of it was changed since."""
    try:
        return home.stored(digest).study
    except UserError:
        return None
