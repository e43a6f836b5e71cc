"""Noise that does not keep the promise is refused with noise that does; where it is surely too little, at once."""

from __future__ import annotations

from typing import Any

import pytest

from audits.simulator.studies import study_from
from dp import accounting
from secfed.errors import UserError
from secfed.study import account
from secfed.study.account import check_noise, smallest_noise
from secfed.study.manifest import Study
from tests.secfed.refusals import noise_named
from tests.secfed.rounds import test_distributed_study, test_node_study
from tests.secfed.study import test_plans


def distributed(noise: float, **privacy: Any) -> Study:
    return test_distributed_study.study_of(privacy={"noise_multiplier": noise, **privacy})


def small_delta(noise: float) -> Study:
    """Its noise's own terms take a part of delta that shows."""
    return distributed(noise, delta=1e-8, grid=1 << 16)


def local(noise: float) -> Study:
    privacy = {**test_plans.LOCAL_PRIVACY, "noise_multiplier": noise}
    return study_from(test_plans.signed(privacy, {"rounds": 11, "local": test_plans.LOCAL_STEPS}, test_plans.SIZES))


def nodes(noise: float) -> Study:
    return test_node_study.study_of(privacy={"noise_multiplier": noise})


MAKERS = [distributed, small_delta, local, nodes]


@pytest.mark.sweep
@pytest.mark.parametrize("make", MAKERS)
def test_enough_noise_is_named_without_an_account_wherever_there_is_surely_too_little(
    monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    """An account takes seconds; of next to no noise, minutes, and its terms look like a fault of the sampler."""
    smallest, said = smallest_noise(make(1.0)), []
    with monkeypatch.context() as patched:
        patched.setattr(accounting, "privacy_loss", None)
        patched.setattr(accounting, "_one_step_loss", None)
        for part in (0.07, 0.5, 0.9, 0.95, 0.98):
            with pytest.raises(UserError, match="is too little for that") as refused:
                check_noise(make(max(0.0625, part * smallest)))
            said.append(noise_named(refused.value))
    assert len(set(said)) == 1
    enough = make(said[0])
    assert check_noise(enough) <= enough.privacy.epsilon
    assert said[0] <= 1.01 * smallest + 0.001


@pytest.mark.parametrize("make", MAKERS)
def test_noise_that_is_a_little_short_takes_one_account_and_no_search(
    monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    smallest, accounts = smallest_noise(make(1.0)), []

    def counted(*given: Any) -> float:
        accounts.append(given)
        return accounting.side_epsilon(*given)

    with monkeypatch.context() as patched:
        patched.setattr(account.accounting, "event_epsilon", counted)
        patched.setattr(account.accounting, "calibrate", None)
        with pytest.raises(UserError, match="gives ") as refused:
            check_noise(make(0.997 * smallest))
    assert len(accounts) == 1
    enough = make(noise_named(refused.value))
    assert check_noise(enough) <= enough.privacy.epsilon


def test_a_study_that_hides_nothing_is_refused_without_an_account_of_it() -> None:
    """An account of it would take more memory than any machine has."""
    study = test_distributed_study.study_of(
        algorithm={"rounds": 100_000}, privacy={"epsilon": 100.0, "noise_multiplier": 0.0625, "sampling_rate": 0.5}
    )
    with pytest.raises(UserError, match=r"over 100000 steps at a sampling rate of 0\.5 it takes about") as refused:
        check_noise(study)
    assert noise_named(refused.value) > 1


def test_where_no_noise_is_enough_none_is_named() -> None:
    study = test_distributed_study.study_of(
        algorithm={"rounds": 100_000}, privacy={"epsilon": 0.001, "noise_multiplier": 1.0, "sampling_rate": 1.0}
    )
    with pytest.raises(UserError, match="no noise multiplier up to 4096 is enough"):
        check_noise(study)
