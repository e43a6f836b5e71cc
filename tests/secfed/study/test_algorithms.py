"""A study's `[algorithm]` table: every strategy has its own figures, and a key without effect is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cbor2
import pytest

from crypto.kdf import digest
from secfed.errors import UserError
from secfed.study.algorithms import STRATEGIES, FedAvg, describe
from secfed.study.manifest import load_study
from tests.secfed.federation import ALGORITHMS, make_study
from tests.secfed.run_folders import study_text


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_study_of_every_strategy_is_read_and_read_again_from_its_own_values(name: str) -> None:
    study = make_study(algorithm=ALGORITHMS[name])
    assert study.algorithm.strategy == name
    again = type(study).model_validate_json(json.dumps(study.model_dump(mode="json")))
    assert again.digest == study.digest
    assert again.algorithm == study.algorithm


def test_a_study_that_names_no_strategy_is_fedavg() -> None:
    assert isinstance(make_study().algorithm, FedAvg)
    assert make_study().digest == make_study(algorithm=ALGORITHMS["fedavg"]).digest


def test_figures_of_other_strategies_are_no_part_of_what_is_signed() -> None:
    """So a FedAvg study has the digest that it had when there was no other strategy."""
    study = make_study()
    values = study.model_dump(mode="json")
    assert set(values["algorithm"]) == {
        "strategy",
        "rounds",
        "local",
        "physical_batch",
    }
    assert set(values["algorithm"]["local"]) == {"steps", "optimizer", "learning_rate"}
    assert study.digest == digest("study", cbor2.dumps(values, canonical=True))


@pytest.mark.parametrize(
    ("name", "figure", "other"),
    [
        ("fedprox", "mu", 0.01),
        ("fedopt-sgd", "server_learning_rate", 0.1),
        ("fedopt-sgd", "beta1", 0.5),
        ("fedopt-adam", "beta2", 0.999),
        ("fedopt-yogi", "tau", 0.1),
        ("fedopt-adagrad", "tau", 0.1),
    ],
)
def test_every_figure_is_signed_and_a_default_is_signed_like_a_value(name: str, figure: str, other: float) -> None:
    study = make_study(algorithm=ALGORITHMS[name])
    said = {**ALGORITHMS[name], figure: getattr(study.algorithm, figure)}
    assert make_study(algorithm=said).digest == study.digest
    assert make_study(algorithm={**said, figure: other}).digest != study.digest


def refusal(folder: Path, **algorithm: Any) -> str:
    (folder / "study.toml").write_text(study_text(algorithm=algorithm))
    with pytest.raises(UserError) as refused:
        load_study(folder / "study.toml")
    return re.sub(r"^line \d+, ", "", refused.value.what.removeprefix(f"{folder / 'study.toml'}: "))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("fedavg", {"mu": 0.1}, "algorithm: mu has no effect with strategy fedavg; leave it out"),
        ("fedavg", {"server_learning_rate": 1.0}, "algorithm: server_learning_rate has no effect"),
        ("fedprox", {"beta1": 0.9}, "algorithm: beta1 has no effect with strategy fedprox"),
        ("fedopt-sgd", {"tau": 0.001}, "algorithm: tau has no effect with strategy fedopt-sgd"),
        ("fedopt-sgd", {"beta2": 0.99}, "algorithm: beta2 has no effect"),
        ("fedopt-adam", {"mu": 0.1}, "algorithm: mu has no effect"),
        ("fedopt-adagrad", {"beta2": 0.99}, "algorithm: beta2 has no effect with strategy fedopt-adagrad"),
        ("fedopt-adam", {"momentum": 0.9}, "algorithm.momentum: this key is unknown"),
        ("fedavg", {"fedprox": 1.0}, "algorithm.fedprox: this key is unknown"),
        ("fedavg", {"strategy": "fednova"}, "algorithm: strategy must be one of fedavg, fedprox, fedopt-sgd"),
        ("fedavg", {"strategy": ["fedavg"]}, "algorithm: strategy must be one of fedavg"),
    ],
)
def test_a_key_without_effect_and_a_strategy_that_does_not_exist_are_refused(
    tmp_path: Path, name: str, change: dict[str, Any], said: str
) -> None:
    assert refusal(tmp_path, **{**ALGORITHMS[name], **change}).startswith(said)


@pytest.mark.parametrize(
    ("name", "figure", "wrong"),
    [
        ("fedprox", "mu", (-0.1, 1e7, "0.1")),
        ("fedopt-sgd", "server_learning_rate", (0, -1, 101)),
        ("fedopt-sgd", "beta1", (-0.1, 1.0)),
        ("fedopt-adam", "beta1", (-0.1, 1.0)),
        ("fedopt-adam", "beta2", (-0.1, 1.0)),
        ("fedopt-yogi", "beta2", (-0.1, 1.0)),
        ("fedopt-yogi", "tau", (0, -1e-3, 1.1)),
        ("fedopt-adagrad", "tau", (0, -1e-3, 1.1)),
    ],
)
def test_a_figure_outside_its_range_is_refused_by_its_name(
    tmp_path: Path, name: str, figure: str, wrong: tuple[Any, ...]
) -> None:
    for value in wrong:
        assert refusal(tmp_path, **{**ALGORITHMS[name], figure: value}).startswith(f"algorithm.{figure}: Input should")


@pytest.mark.parametrize("name", ["fedopt-sgd", "fedopt-adam", "fedopt-yogi", "fedopt-adagrad"])
def test_a_server_learning_rate_is_a_choice_that_no_default_makes(tmp_path: Path, name: str) -> None:
    assert refusal(tmp_path, strategy=name) == "algorithm.server_learning_rate: Field required"


def test_fedprox_with_one_local_step_a_round_is_refused_as_the_no_op_that_it_is(tmp_path: Path) -> None:
    said = refusal(tmp_path, strategy="fedprox", mu=0.1, local={"steps": 1, "learning_rate": 0.01})
    assert said.startswith("algorithm: fedprox with local.steps = 1 is fedavg")
    assert "use more local steps, or strategy fedavg" in said


def test_a_strategy_is_described_with_the_figures_that_are_its_own() -> None:
    words = {name: describe(make_study(algorithm=changes).algorithm) for name, changes in ALGORITHMS.items()}
    assert words == {
        "fedavg": "fedavg",
        "fedprox": "fedprox (mu 0.1)",
        "fedopt-sgd": "fedopt-sgd (server learning rate 0.5, beta1 0.9)",
        "fedopt-adam": "fedopt-adam (server learning rate 0.05, beta1 0.9, beta2 0.99, tau 0.001)",
        "fedopt-yogi": "fedopt-yogi (server learning rate 0.05, beta1 0.8, beta2 0.99, tau 0.01)",
        "fedopt-adagrad": "fedopt-adagrad (server learning rate 0.3, beta1 0.9, tau 0.001)",
    }


def test_every_strategy_of_the_tests_is_every_strategy_there_is() -> None:
    assert {*ALGORITHMS, "fedopt-adambc"} == set(STRATEGIES)  # which is of distributed mode alone
    for name in ALGORITHMS:
        strategy = STRATEGIES[name]
        figures = set(strategy.model_fields) - set(FedAvg.model_fields)
        assert all(
            figure.replace("_", " ") in describe(make_study(algorithm=ALGORITHMS[name]).algorithm) for figure in figures
        )
