"""The strategies against exact arithmetic, bit for bit; what a state's digest covers; and that each one learns."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from audits.reference.notation import C, H
from secfed.rounds.strategies import ModelState, first_state, move, next_state
from secfed.study.algorithms import Algorithm
from secfed.study.manifest import Study
from tests.secfed import exact
from tests.secfed.federation import ALGORITHMS, DIMENSION, make_study

SIZE = 519
"""Not a multiple of any vector register's width."""
LAYOUT = (("a", (5,)), ("b", (2, 3)))
MOMENTS = {"fedavg": 0, "fedprox": 0, "fedopt-sgd": 1, "fedopt-adam": 2, "fedopt-yogi": 2, "fedopt-adagrad": 2}


def study_with(name: str, **figures: float) -> Study:
    return make_study(algorithm={**ALGORITHMS[name], **figures})


def start(seed: int = 1, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


def changes(rounds: int = 4, size: int = SIZE) -> list[np.ndarray]:
    """Mean updates of all magnitudes that there are, some of them zero, and some at which Yogi's sign is zero."""
    generator = np.random.default_rng(2)
    drawn = []
    for number in range(rounds):
        change = generator.normal(size=size) * 10.0 ** generator.integers(-9, 2, size=size)
        change[number::29] = 0.0
        change[number + 3 :: 31] = 1e-3
        change[number + 4 :: 31] = -1e-2
        drawn.append(change)
    return drawn


def run(algorithm: Algorithm, state: ModelState, steps: list[np.ndarray]) -> ModelState:
    for change in steps:
        state = move(algorithm, state, change)
    return state


def bits(state: ModelState) -> list[bytes]:
    return [state.adapter.tobytes(), *(moment.tobytes() for moment in state.moments)]


def by_hand(name: str, x: np.ndarray, steps: list[np.ndarray]) -> list[exact.Element]:
    algorithm = ALGORITHMS[name]
    elements = []
    for index, value in enumerate(x.tolist()):
        at = exact.first(algorithm, value)
        for change in steps:
            at = exact.step(algorithm, at, float(change[index]))
        elements.append(at)
    return elements


# Each strategy, bit for bit.


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_strategy_gives_the_bits_of_exact_arithmetic_rounded_after_every_operation(name: str) -> None:
    study = study_with(name)
    found = run(study.algorithm, first_state(study, start()), changes())
    expected = by_hand(name, start(), changes())
    columns = [[at.x for at in expected], [at.m for at in expected], [at.v for at in expected]]
    assert found.adapter.astype(np.float64).tolist() == columns[0]
    assert [moment.tolist() for moment in found.moments] == columns[1 : 1 + MOMENTS[name]]
    assert found.adapter.dtype == np.float32
    assert all(moment.dtype == np.float64 for moment in found.moments)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_steps_last_bits_are_those_of_exact_arithmetic_too(name: str) -> None:
    """Rounding to float32 hides them; an adapter that takes away nearly all of the step brings them out."""
    study = study_with(name)
    *earlier, last = changes()
    before = run(study.algorithm, first_state(study, start()), earlier)
    step = move(study.algorithm, dataclasses.replace(before, adapter=np.zeros(SIZE, np.float32)), last).adapter
    found = move(study.algorithm, dataclasses.replace(before, adapter=-step), last)
    expected = []
    for index, at in enumerate(by_hand(name, start(), earlier)):
        back = dataclasses.replace(at, x=-float(step[index]))
        expected.append(exact.step(ALGORITHMS[name], back, float(last[index])).x)
    assert found.adapter.astype(np.float64).tolist() == expected
    assert np.count_nonzero(found.adapter) > SIZE // 2


def test_one_step_of_each_strategy_by_hand() -> None:
    """x = 1, D = 1/4, powers of two wherever a figure is free: every number below is exact."""
    d = np.array([0.25])
    one = np.array([1.0], dtype=np.float32)

    def after(name: str, **figures: float) -> tuple[float, ...]:
        study = study_with(name, **figures)
        state = move(study.algorithm, first_state(study, one), d)
        return (float(state.adapter[0]), *(float(moment[0]) for moment in state.moments))

    half = {"server_learning_rate": 0.5, "beta1": 0.5, "tau": 0.25}
    assert after("fedavg") == (1.25,)
    assert after("fedprox") == (1.25,)
    assert after("fedopt-sgd", server_learning_rate=0.5) == (1.125, 0.25)
    # v starts at tau^2 = 1/16 = D^2. m = 1/8, eta m = 1/16, and 1/16 / (1/4 + 1/4) = 1/8.
    assert after("fedopt-adam", beta2=0.75, **half) == (1.125, 0.125, 0.0625)
    assert after("fedopt-yogi", beta2=0.75, **half) == (1.125, 0.125, 0.0625)
    # v = 1/16 + 1/16 = 1/8, whose root is no power of two.
    x, m, v = after("fedopt-adagrad", **half)
    assert (m, v) == (0.125, 0.125)
    assert x == pytest.approx(1 + 0.0625 / (0.125**0.5 + 0.25), rel=1e-7)


@pytest.mark.parametrize(("v", "sign"), [(0.5, 1), (0.25, 0), (0.125, -1)])
def test_yogi_moves_v_by_the_sign_of_its_distance(v: float, sign: int) -> None:
    algorithm = study_with("fedopt-yogi", beta2=0.5).algorithm
    state = ModelState(np.zeros(1, np.float32), (np.zeros(1), np.array([v])))
    assert move(algorithm, state, np.array([-0.5])).moments[1].tolist() == [v - 0.5 * 0.25 * sign]


def test_sgd_without_momentum_at_rate_one_is_fedavg_bit_for_bit() -> None:
    plain, sgd = study_with("fedavg"), study_with("fedopt-sgd", server_learning_rate=1.0, beta1=0.0)
    found = [run(study.algorithm, first_state(study, start()), changes()) for study in (plain, sgd)]
    assert found[0].adapter.tobytes() == found[1].adapter.tobytes()


def test_the_comparison_would_show_a_fused_multiply_add() -> None:
    """One rounding less, as a processor does that fuses beta1 m + D: other bits, so that nodes would part."""
    study = study_with("fedopt-sgd")
    first, second = changes(2)
    state = move(study.algorithm, first_state(study, start()), first)
    separate = move(study.algorithm, state, second).moments[0]
    (m,) = state.moments
    beta = Fraction(study.algorithm.beta1)  # type: ignore[union-attr]
    fused = [exact.nearest(beta * Fraction(a) + Fraction(b)) for a, b in zip(m.tolist(), second.tolist(), strict=True)]
    assert sum(a != b for a, b in zip(separate.tolist(), fused, strict=True)) > SIZE // 20


# The same bits, whatever the memory looks like.


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_elements_bits_do_not_depend_on_its_place_or_its_neighbours(name: str) -> None:
    """Vector instructions take some elements together and the tail one by one: every size, from every offset."""
    study = study_with(name)
    whole = run(study.algorithm, first_state(study, start()), changes())
    for offset in (0, 1, 3):
        for size in (*range(1, 36), 63, 64, 65, 127, 129, 511):
            part = slice(offset, offset + size)
            found = run(study.algorithm, first_state(study, start()[part]), [each[part] for each in changes()])
            assert found.adapter.tobytes() == whole.adapter[part].tobytes()
            assert [each.tobytes() for each in found.moments] == [each[part].tobytes() for each in whole.moments]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_strided_and_reversed_memory_gives_the_same_bits_and_the_same_digest(name: str) -> None:
    study = study_with(name)
    layout = (("a", (SIZE,)),)
    dense = run(study.algorithm, first_state(study, start()), changes())

    def spread(vector: np.ndarray) -> np.ndarray:
        return np.repeat(vector, 3)[::3]

    def turned(vector: np.ndarray) -> np.ndarray:
        return vector[::-1].copy()[::-1]

    for other in (spread, turned):
        assert not other(start()).flags.c_contiguous
        state = first_state(study, other(start()))
        for change in changes():
            state = move(study.algorithm, state, other(change))
            state = ModelState(other(state.adapter), tuple(other(moment) for moment in state.moments))
        assert bits(state) == bits(dense)
        assert state.digest(layout) == dense.digest(layout)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_step_changes_nothing_of_the_state_before_it(name: str) -> None:
    study = study_with(name)
    state = move(study.algorithm, first_state(study, start()), changes()[0])
    before = bits(state)
    for array in (state.adapter, *state.moments):
        array.flags.writeable = False
    move(study.algorithm, state, changes()[1])
    assert bits(state) == before


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_state_with_another_strategys_moments_is_refused(name: str) -> None:
    study = study_with(name)
    for count in {0, 1, 2} - {MOMENTS[name]}:
        state = ModelState(start(), (np.zeros(SIZE),) * count)
        with pytest.raises(ValueError, match="values to unpack"):
            move(study.algorithm, state, changes()[0])


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_change_is_the_sum_over_the_survivors_weights(name: str) -> None:
    study = study_with(name)
    total = np.arange(-5, DIMENSION - 5, dtype=np.int64) * 999_983
    survivors = (0, 2, 3)  # nominal weights 100, 300 and 400
    scale = Fraction(2) ** study.privacy.fraction_bits * 800
    change = np.array([exact.nearest(Fraction(value) / scale) for value in total.tolist()])
    state = first_state(study, start(size=DIMENSION))
    assert bits(next_state(study, state, total, survivors)) == bits(move(study.algorithm, state, change))


# What the digest covers.


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_digest_is_the_specifications(name: str) -> None:
    study = study_with(name)
    state = run(study.algorithm, first_state(study, start(size=DIMENSION)), changes(size=DIMENSION))
    parts = [state.adapter.astype("<f4").tobytes(), *(moment.astype("<f8").tobytes() for moment in state.moments)]
    assert state.digest(LAYOUT) == H("state", C([["a", [5]], ["b", [2, 3]]]), *parts)
    assert len(state.moments) == MOMENTS[name]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_bit_of_adapter_and_moments_is_in_the_digest(name: str) -> None:
    study = study_with(name)
    state = run(study.algorithm, first_state(study, start(size=DIMENSION)), changes(size=DIMENSION))
    digests = {state.digest(LAYOUT)}
    flips = 0
    for place, array in enumerate((state.adapter, *state.moments)):
        for at in range(array.nbytes):
            data = bytearray(array.tobytes())
            data[at] ^= 1 << at % 8
            other: Any = np.frombuffer(bytes(data), dtype=array.dtype)
            if place == 0:
                changed = dataclasses.replace(state, adapter=other)
            else:
                moments = [*state.moments[: place - 1], other, *state.moments[place:]]
                changed = dataclasses.replace(state, moments=tuple(moments))
            digests.add(changed.digest(LAYOUT))
            flips += 1
    assert len(digests) == 1 + flips


def test_moments_cannot_take_each_others_place_or_go_missing_unseen() -> None:
    x, m, v = start(size=DIMENSION), np.ones(DIMENSION), np.full(DIMENSION, 2.0)
    states = [(), (m,), (v,), (m, v), (v, m)]
    assert len({ModelState(x, moments).digest(LAYOUT) for moments in states}) == len(states)


# Each one learns.


def fit(study: Study, rounds: int, local_steps: int = 4, rate: float = 0.05) -> tuple[float, float]:
    """Loss above the minimum, before and after: hospitals with different convex objectives 1/2 sum a (x - c)^2.

    Each takes local gradient steps, with the proximal term if the study has one; the updates travel as integers.
    """
    generator = np.random.default_rng(3)
    nodes = len(study.roster)
    curvatures = generator.uniform(0.2, 4.0, size=(nodes, DIMENSION))
    centres = generator.normal(size=(nodes, DIMENSION))
    shares = np.array(study.weights)[:, None] / sum(study.weights)
    best = (shares * curvatures * centres).sum(0) / (shares * curvatures).sum(0)

    def loss(x: np.ndarray) -> float:
        return float((shares * curvatures * (x - centres) ** 2).sum() / 2)

    mu = getattr(study.algorithm, "mu", 0.0)
    state = first_state(study, np.full(DIMENSION, 2.0, dtype=np.float32))
    before = loss(state.adapter) - loss(best)
    for _ in range(rounds):
        total = np.zeros(DIMENSION, dtype=np.int64)
        for node in range(nodes):
            x = state.adapter.astype(np.float64)
            for _ in range(local_steps):
                x -= rate * (curvatures[node] * (x - centres[node]) + mu * (x - state.adapter))
            update = (x - state.adapter).astype(np.float32)
            total += study.mechanism.fixed_point.encode(update, study.weights[node])
        state = next_state(study, state, total, range(nodes))
    return before, loss(state.adapter) - loss(best)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_strategy_comes_near_the_minimum_of_a_convex_problem(name: str) -> None:
    before, after = fit(study_with(name), rounds=150)
    assert after < before / 50


def test_fedprox_ends_nearer_to_the_common_minimum_where_hospitals_differ() -> None:
    """With many local steps FedAvg settles between the hospitals' own minima; the proximal term holds them together."""
    many = {"local_steps": 60, "rounds": 200}
    _, drifted = fit(study_with("fedavg"), **many)
    _, held = fit(study_with("fedprox", mu=4.0), **many)
    assert held < drifted / 2
