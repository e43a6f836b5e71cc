"""From a study's file to bytes, by the second implementation: the same digest, bound, ring, states, first tensors."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audits.reference import state as reference_state
from audits.reference.notation import C, Refused, parse_cbor
from audits.reference.study import Study, filled_in, model_digest
from protocols import encoding
from protocols.parameters import RoundShape
from secfed.models.adapter import first_adapter_seed, orthonormal_rows
from secfed.models.model import _small_uniform, load_model
from secfed.rounds.strategies import ModelState, first_state, next_state
from secfed.study.approvals import StudyFile, study_file_digest
from secfed.study.base import base_digest
from secfed.study.manifest import Study as RealStudy
from tests.secfed.federation import ALGORITHMS, FormulaTrainer, study_values
from tests.tiny import LORA, SEED, classifying, make_tiny_base

LAYOUT = FormulaTrainer.layout
DISTRIBUTED: dict[str, Any] = {
    "epsilon": 8.0,
    "delta": 1e-5,
    "noise_multiplier": 0.6422,
    "sampling_rate": 0.06,
    "clip": 0.5,
}
NODES: dict[str, Any] = {"unit": "node", "epsilon": 8.0, "delta": 1e-5, "noise_multiplier": 20.0, "clip": 0.5}
ADAMBC = {"strategy": "fedopt-adambc", "server_learning_rate": 0.05, "floor": 1e-4}


def local(**algorithm: Any) -> dict[str, Any]:
    return study_values(algorithm=algorithm)


def distributed(algorithm: dict[str, Any], **privacy: Any) -> dict[str, Any]:
    values = study_values()
    values["algorithm"] = {"rounds": 4, "physical_batch": 8, **algorithm}
    return {**values, "privacy": {**DISTRIBUTED, **privacy}}


def few_patients() -> dict[str, Any]:
    """Nominal numbers that stand for five patients more or less."""
    values = distributed(ALGORITHMS["fedopt-sgd"], sampling_rate=0.5)
    roster = [
        {**entry, "patients": patients} for entry, patients in zip(values["roster"], (3, 9, 40, 49, 60), strict=True)
    ]
    return {**values, "roster": roster}


def of_nodes(**algorithm: Any) -> dict[str, Any]:
    values = study_values()
    values["algorithm"] = {"rounds": 4, "local": {"steps": 2, "learning_rate": 1}, **algorithm}
    roster = [{**entry, "patients": 1} for entry in values["roster"]]
    return {**values, "privacy": dict(NODES), "roster": roster}


def with_task(**task: Any) -> dict[str, Any]:
    return {**study_values(), "task": task}


GENERATE = {"kind": "generate", "prompt": "Note: {note} {{é}}", "answer": " {summary}", "answer_tokens": 4}
STUDIES: dict[str, dict[str, Any]] = {
    "classification that says so": with_task(kind="classify", labels=["no", "yes"]),
    "tags": with_task(kind="tag", labels=["O", "drug"], words_column="tokens"),
    "written answers": with_task(**GENERATE),
    "written answers in a chat": with_task(**GENERATE, template="chat", patient_column="person"),
    **{f"local, {name}": local(**figures) for name, figures in ALGORITHMS.items()},
    **{
        f"distributed, {name}": distributed(figures)
        for name, figures in {**ALGORITHMS, "fedopt-adambc": ADAMBC}.items()
        if name.startswith("fedopt")
    },
    "an adapting clip": distributed(ALGORITHMS["fedopt-adam"], adaptive_clip={"quantile": 0.7}),
    "an adapting clip, and Adam without the noise": distributed(ADAMBC, adaptive_clip={"indicator": 0.3}),
    "records": distributed(ALGORITHMS["fedopt-sgd"], unit="record"),
    "many records of a patient in large batches": distributed(
        {**ALGORITHMS["fedopt-sgd"], "physical_batch": 64}, records_per_patient=50, sampling_rate=0.3
    ),
    "everybody drawn": distributed(ALGORITHMS["fedopt-sgd"], sampling_rate=1),
    "few patients": few_patients(),
    "nodes": of_nodes(),
    "nodes, and an optimiser": of_nodes(**ALGORITHMS["fedopt-yogi"]),
    "nodes, and a whole number where a decimal is meant": of_nodes(strategy="fedprox", mu=1),
}
SURVIVORS = [(0, 1, 2, 3, 4), (0, 2, 4), (1, 2, 3, 4)]


def both(values: dict[str, Any]) -> tuple[Study, RealStudy]:
    return Study(filled_in(values)), RealStudy.model_validate_json(json.dumps(values))


@pytest.mark.parametrize("name", STUDIES)
def test_digest_bound_and_ring_are_the_same(name: str) -> None:
    study, real = both(STUDIES[name])
    assert study.digest == real.digest
    assert (study.largest_input, study.noise_tail, study.bound) == (
        real.mechanism.largest_input,
        real.mechanism.noise_tail,
        real.magnitude,
    )
    of = study.round(1, study.digest, bytes(32), 11)
    assert of.ring_bits == real.overflow_certificate.ring_bits
    assert of.dimension == 11 + real.mechanism.elements_beside_gradient
    assert (study.fewest_survivors, study.gradient_grid if not study.is_local else 0) == (
        real.cohort_rules().fewest_survivors,
        getattr(real.privacy, "gradient_grid", 0),
    )


@pytest.mark.parametrize("name", STUDIES)
def test_states_are_the_same_to_the_bit(name: str) -> None:
    study, real = both(STUDIES[name])
    adapter = FormulaTrainer.first_state().adapter
    mine, theirs = reference_state.first_state(study, adapter.tolist()), first_state(real, ModelState(adapter).adapter)
    assert mine.digest(LAYOUT) == theirs.digest(LAYOUT)
    generator = np.random.default_rng(7)
    for survivors in SURVIVORS:
        most = len(survivors) * study.bound
        total = generator.integers(-most, most, study.dimension(11), endpoint=True)
        mine = reference_state.next_state(study, mine, total.tolist(), survivors)
        theirs = next_state(real, theirs, total, survivors)
        assert mine.digest(LAYOUT) == theirs.digest(LAYOUT)


def test_noise_beyond_the_grid_is_within_the_bound_of_a_study_of_nodes() -> None:
    """One node's element may be M + tail, and a sum's may be that of every survivor: more than |U3| M, and legal."""
    study, _ = both(of_nodes())
    assert study.largest_input == 2**20
    assert study.noise_tail > study.largest_input
    of = study.round(1, study.digest, bytes(32), 11)
    assert of.largest_element == study.largest_input + study.noise_tail
    assert 2 ** (of.ring_bits - 1) > 5 * of.largest_element


def test_the_real_packing_takes_what_the_bound_allows() -> None:
    study, real = both(of_nodes())
    shape = RoundShape(11, real.overflow_certificate.ring_bits)
    vector = np.full(11, -study.bound, dtype=np.int64)
    words = encoding.to_ring(vector, shape, real.magnitude)
    of = study.round(1, study.digest, bytes(32), 11)
    assert encoding.pack(words, shape) == of.pack(vector.tolist())


def test_a_file_is_read_with_its_defaults_and_signed_as_it_is(tmp_path: Path) -> None:
    text = study_toml()
    study, file = Study.read(text.encode()), tmp_path / "study.toml"
    file.write_text(text)
    real = StudyFile.read(file)
    assert study.digest == real.study.digest
    assert study.approved_bytes(real.data) == (real.study.digest, study_file_digest(real.data))
    assert tomllib.loads(text)["privacy"].get("grid") is None
    assert study.values["privacy"]["grid"] == 2**20


def study_toml() -> str:
    """A study as people write it: with a comment, and with defaults left out."""
    roster = "\n".join(
        f'[[roster]]\nname = "{entry["name"]}"\nidentity = "{entry["identity"]}"\npatients = {entry["patients"]}'
        for entry in study_values()["roster"]
    )
    return (
        "# a comment is signed, and not part of the digest\n"
        'name = "written"\npurpose = "As people write it: é"\n'
        f'[model]\nbase = "model"\ndigest = "sha256:{"5" * 64}"\nmax_length = 8\n'
        '[task]\nlabels = ["no", "yes"]\n[lora]\nrank = 2\nalpha = 4\ntargets = ["query"]\n'
        '[algorithm]\nstrategy = "fedopt-sgd"\nrounds = 4\nserver_learning_rate = 1\n'
        "[privacy]\nepsilon = 8\ndelta = 1e-5\nnoise_multiplier = 0.6422\nsampling_rate = 0.06\nclip = 0.5\n"
        "[cohort]\ncolluders = 1\ntolerated_dropouts = 1\nminimum = 3\n" + roster + "\n"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"unheard": 1},
        {"task": {"kind": "tag", "labels": [], "prompt": ""}},
        {"algorithm": {"rounds": 4, "tau": 0.1}},
        {"lora": {"rank": 2}},
    ],
)
def test_a_key_that_no_study_has_or_that_is_missing_is_refused(change: dict[str, Any]) -> None:
    values = {**local(), **change}
    with pytest.raises(KeyError):
        filled_in(values)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.floats(width=16, allow_nan=False, allow_infinity=False))
def test_floats_take_their_shortest_form(value: float) -> None:
    assert C([value]) == cbor2.dumps([value], canonical=True)
    with pytest.raises(Refused):
        parse_cbor(C(value))


def test_the_base_models_digest_is_the_same(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "model.safetensors": b"\x00" * 9, "vocab.txt": b"a\n"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "README.md").write_text("counts for nothing")
    assert model_digest(files) == base_digest(tmp_path)


@pytest.mark.parametrize(("rows", "columns"), [(1, 5), (2, 32), (4, 9)])
def test_the_first_tensors_are_the_same(rows: int, columns: int) -> None:
    study, real = both(local())
    seed = reference_state.first_adapter_seed(study)
    assert seed == first_adapter_seed(real.digest)
    found = reference_state.first_a(seed, "a.lora_A.default.weight", rows, columns)
    assert found == orthonormal_rows(seed, "a.lora_A.default.weight", rows, columns).ravel().tolist()
    head = reference_state.first_head(seed, "classifier.weight", (rows, columns))
    assert head == _small_uniform(seed, "classifier.weight", (rows, columns)).float().ravel().tolist()
    for name, start in (("classifier.bias", 0.0), ("head.norm.weight", 1.0)):
        assert reference_state.first_head(seed, name, (3,)) == _small_uniform(seed, name, (3,)).tolist() == [start] * 3


def test_the_first_adapter_of_a_model_follows_from_names_and_shapes(tmp_path: Path) -> None:
    model = load_model(make_tiny_base(tmp_path), classifying(), LORA, SEED)
    expected: list[float] = []
    for name, shape in model.layout:
        if ".lora_B." in name:
            expected += [0.0] * math.prod(shape)
        else:
            own = name.removeprefix("base_model.model.").replace(".modules_to_save.default.", ".")
            expected += reference_state.first_head(SEED, own, shape)
    assert [name for name, _ in model.layout] == sorted(name for name, _ in model.layout)
    assert model.get_state().tolist() == expected
    frozen = {name: values for name, values in model.module.named_parameters() if ".lora_A." in name}
    assert frozen
    for name, values in frozen.items():
        assert reference_state.first_a(SEED, name, *values.shape) == values.detach().ravel().tolist()
