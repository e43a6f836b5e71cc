"""A study is drawn up in a file that people write in, and what differs between two is said in words."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

import pytest

from audits.simulator.studies import study_from
from crypto.identity import Identity
from secfed.errors import UserError
from secfed.study.account import check_noise, smallest_noise
from secfed.study.diff import differences
from secfed.study.draft import add_to_roster, write_draft
from secfed.study.draft_figures import Known
from secfed.study.manifest import Study, load_study
from secfed.study.text import study_text
from tests.secfed.federation import identities, make_study, study_values
from tests.secfed.run_folders import study_text as formula_text

KEYS = [key.public.raw.hex() for key in identities(5)]
STRANGER = Identity(bytes(32)).public.raw.hex()


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    write_draft(tmp_path / "study.toml", "my-study", None)
    return tmp_path / "study.toml"


def test_a_draft_is_refused_for_what_is_to_be_filled_in_and_loads_once_it_is(draft: Path) -> None:
    with pytest.raises(UserError, match=r"3 problems, line \d+, model\.digest: .*task\.labels: .*roster: Field"):
        load_study(draft)
    fill(draft, 'digest = ""', f'digest = "sha256:{"5" * 64}"')
    with pytest.raises(UserError, match=r"2 problems, line \d+, task\.labels: .*; roster: Field"):
        load_study(draft)
    fill(draft, "labels = [\n", 'labels = [\n  "no",\n  "yes",\n')
    with pytest.raises(UserError, match=r"roster: Field required\. Mend"):
        load_study(draft)
    for index, key in enumerate(KEYS):
        add_to_roster(draft, f"hospital-{index}", key, 1000)
    study = load_study(draft)
    assert [entry.identity for entry in study.roster] == KEYS
    assert check_noise(study) <= study.privacy.epsilon


def test_a_draft_for_more_patients_than_any_site_can_have_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    with pytest.raises(UserError, match="more than 10000000 per site"):
        write_draft(path, "my-study", None, Known(3, 3 * 10_000_001))
    assert not path.exists()


def filled_in(path: Path, sites: int, patients: int) -> Study:
    """The draft with a roster of so many sites that have so many patients together."""
    fill(path, "labels = [\n", 'labels = [\n  "no",\n  "yes",\n')
    for index in range(sites):
        add_to_roster(path, f"hospital-{index}", f"{index + 1:064x}", patients // sites)
    return load_study(path)


@pytest.mark.parametrize("mode", ["distributed", "local"])
@pytest.mark.parametrize(("sites", "patients"), [(3, 300), (4, 10_000), (7, 90_000)])
def test_a_draft_fits_the_sites_patients_and_mode_that_it_was_drawn_up_for(
    tmp_path: Path, base: Path, mode: Literal["distributed", "local"], sites: int, patients: int
) -> None:
    write_draft(tmp_path / "study.toml", "my-study", base, Known(sites, patients, mode))
    study = filled_in(tmp_path / "study.toml", sites, patients)
    assert study.privacy.mode == mode
    assert study.privacy.noise_multiplier == smallest_noise(study)
    assert study.privacy.delta <= 1 / (10 * patients)
    assert study.cohort_rules().really_tolerated(sites) == study.cohort.tolerated_dropouts
    assert 100 <= study.privacy.sampling_rate * patients <= 600
    assert study.lora.layers == (1,)
    assert study.model.max_length == 30  # as many as the tiny model has positions, but for the two that some keep


@pytest.mark.parametrize("known", [Known(2, 100), Known(1001, 5000), Known(5, 4)])
def test_a_draft_that_no_study_could_become_is_not_begun(tmp_path: Path, known: Known) -> None:
    with pytest.raises(UserError, match="a study cannot have"):
        write_draft(tmp_path / "study.toml", "my-study", None, known)
    assert not (tmp_path / "study.toml").exists()


def fill(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_a_draft_overwrites_nothing_and_has_a_studys_name(draft: Path) -> None:
    before = draft.read_bytes()
    with pytest.raises(UserError, match="exists already"):
        write_draft(draft, "other", None)
    assert draft.read_bytes() == before
    with pytest.raises(UserError, match="small letters"):
        write_draft(draft.parent / "other.toml", "My Study", None)
    assert not (draft.parent / "other.toml").exists()


def test_a_draft_with_a_model_has_its_digest_and_its_place(tmp_path: Path, base: Path) -> None:
    from secfed.study.base import base_digest

    inside = tmp_path / "models" / "tiny"
    shutil.copytree(base, inside)
    for model, place in [(inside, "models/tiny"), (base, base.name)]:
        path = tmp_path / f"{model.name}.toml"
        write_draft(path, "my-study", model)
        assert f'base = "{place}"' in path.read_text()
        assert f'digest = "{base_digest(base)}"' in path.read_text()


def test_an_entry_is_added_and_every_byte_before_it_stays(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(formula_text())
    path.chmod(0o640)
    before = path.read_bytes()
    fingerprint = add_to_roster(path, "sixth", STRANGER, 600).fingerprint()
    assert path.read_bytes().startswith(before)
    study = load_study(path)
    assert study.roster[-1].name == "sixth"
    assert study.identities[-1].fingerprint() == fingerprint
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("name", "identity", "patients", "reason"),
    [
        ("hospital-0", STRANGER, 1, "on the roster"),
        ("sixth", KEYS[0], 1, "on the roster"),
        ("Sixth", STRANGER, 1, "invalid roster entry: name"),
        ('x"\nname = "y', STRANGER, 1, "invalid roster entry: name"),
        ("sixth", STRANGER.upper(), 1, "invalid roster entry: identity"),
        ("sixth", STRANGER, 0, "invalid roster entry: patients"),
    ],
)
def test_an_entry_that_is_none_or_is_there_already_changes_nothing(
    tmp_path: Path, name: str, identity: str, patients: int, reason: str
) -> None:
    path = tmp_path / "study.toml"
    path.write_text(formula_text())
    before = path.read_bytes()
    with pytest.raises(UserError, match=reason):
        add_to_roster(path, name, identity, patients)
    assert path.read_bytes() == before


@pytest.mark.parametrize("roster", ["roster = []", 'roster = [{ name = "a" }]', "roster = 3", "[roster]\nname = 1"])
def test_a_roster_in_another_form_is_left_as_it_is(tmp_path: Path, roster: str) -> None:
    path = tmp_path / "study.toml"
    path.write_text(f"{roster}\n")
    with pytest.raises(UserError, match="not written as"):
        add_to_roster(path, "sixth", STRANGER, 1)
    assert path.read_text() == f"{roster}\n"


def study_with(**changes: Any) -> Study:
    return study_from({**study_values(), **changes})


def test_equal_studies_differ_in_nothing() -> None:
    assert differences(make_study(), make_study()) == ()


def test_values_are_told_by_their_place() -> None:
    found = differences(make_study(), make_study(privacy={"epsilon": 4.0}, task={"labels": ["no", "perhaps"]}))
    assert found == ('task.labels: "perhaps" added, "yes" removed', "privacy.epsilon: 8.0 before, 4.0 now")


def test_another_order_of_labels_is_told() -> None:
    (line,) = differences(make_study(), make_study(task={"labels": ["yes", "no"]}))
    assert line == "task.labels: the same entries in another order or number"


def test_a_value_that_only_one_strategy_has_is_told_as_absent() -> None:
    found = differences(make_study(), make_study(algorithm={"strategy": "fedprox", "mu": 0.1}))
    assert 'algorithm.strategy: "fedavg" before, "fedprox" now' in found
    assert "algorithm.mu: absent before, 0.1 now" in found


def test_the_roster_is_told_by_name() -> None:
    roster = study_values()["roster"]
    changed = [{**roster[1], "patients": 250}, roster[0], {**roster[2], "identity": STRANGER}, roster[3]]
    found = differences(study_with(), study_with(roster=[*changed, {**roster[4], "name": "newcomer"}]))
    told = {line.split(", fingerprint")[0].split(": fingerprint")[0] for line in found}
    assert told == {
        "roster: newcomer joined, about 500",
        "roster: hospital-4 left",
        "roster: hospital-2 has another key",
        "roster: hospital-1 counts 250, before 200",
        "roster: the same names in another order",
    }


def test_every_value_of_a_study_that_may_change_shows_in_its_differences() -> None:
    """Whatever is signed and differs must not be passed over."""
    before = study_values()
    changes: dict[str, Any] = {
        "name": "other",
        "purpose": "Another",
        "model": {**before["model"], "max_length": 9},
        "lora": {**before["lora"], "layers": [0]},
        "cohort": {**before["cohort"], "minimum": 4},
        "privacy": {**before["privacy"], "clip": 2.0},
        "algorithm": {**before["algorithm"], "local": {"steps": 3, "learning_rate": 0.01}},
    }
    for name, value in changes.items():
        (line,) = differences(study_with(), study_with(**{name: value}))
        assert line.startswith(name)


def test_a_study_is_shown_with_every_fingerprint_and_no_control_characters() -> None:
    study = study_with(purpose="\x1b[2J to clear the screen\n  digest  00")
    text = study_text(study, this_node=1)
    assert all(line.isprintable() for line in text.split("\n"))
    assert "\n  digest  00" not in text
    for entry, identity in zip(study.roster, study.identities, strict=True):
        assert entry.identity in text
        assert identity.fingerprint() in text
    assert text.count("(this node)") == 1
    assert "hospital-1 (this node), about 200 patients" in text
