"""The strategies in exact arithmetic: every operation on rational numbers, rounded once, and no floating-point unit.

An oracle for `secfed.rounds.strategies` that is the same on every processor, written from SPEC, section 8, "The next
state".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

_ROOT_BITS = 300


def nearest(value: Fraction) -> float:
    """The nearest float64; Python divides integers with one correct rounding."""
    return value.numerator / value.denominator


def nearest_single(value: float) -> float:
    """The nearest float32, ties to even."""
    if value == 0:
        return value
    unit = Fraction(2) ** max(math.frexp(value)[1] - 24, -149)
    return float(round(Fraction(value) / unit) * unit)


def add(a: float, b: float) -> float:
    return nearest(Fraction(a) + Fraction(b))


def subtract(a: float, b: float) -> float:
    return nearest(Fraction(a) - Fraction(b))


def multiply(a: float, b: float) -> float:
    return nearest(Fraction(a) * Fraction(b))


def divide(a: float, b: float) -> float:
    return nearest(Fraction(a) / Fraction(b))


def root(a: float) -> float:
    """The square root, to 300 bits after the point and then rounded."""
    square = Fraction(a) * 4**_ROOT_BITS
    return nearest(Fraction(math.isqrt(square.numerator // square.denominator), 2**_ROOT_BITS))


@dataclass(frozen=True)
class Element:
    """One element of the adapter, and its moments."""

    x: float
    m: float = 0.0
    v: float = 0.0


def first(algorithm: Mapping[str, Any], x: float) -> Element:
    tau = algorithm.get("tau", 1e-3)
    return Element(x, 0.0, multiply(tau, tau))


def moved(x: float, step: float) -> float:
    return nearest_single(add(x, step))


def step(algorithm: Mapping[str, Any], at: Element, d: float) -> Element:
    """One step of a strategy, as the study's section `algorithm` has it."""
    return _STEPS[algorithm["strategy"]](algorithm, at, d)


def _average(algorithm: Mapping[str, Any], at: Element, d: float) -> Element:
    return Element(moved(at.x, d), at.m, at.v)


def _sgd(algorithm: Mapping[str, Any], at: Element, d: float) -> Element:
    m = add(multiply(algorithm.get("beta1", 0.9), at.m), d)
    return Element(moved(at.x, multiply(algorithm["server_learning_rate"], m)), m, at.v)


def _adam(algorithm: Mapping[str, Any], at: Element, d: float) -> Element:
    beta2 = algorithm.get("beta2", 0.99)
    kept, added = multiply(beta2, at.v), multiply(subtract(1.0, beta2), multiply(d, d))
    return _adapted(algorithm, at, add(kept, added), d)


def _yogi(algorithm: Mapping[str, Any], at: Element, d: float) -> Element:
    square = multiply(d, d)
    by = multiply(subtract(1.0, algorithm.get("beta2", 0.99)), square)
    if at.v > square:
        return _adapted(algorithm, at, subtract(at.v, by), d)
    return _adapted(algorithm, at, add(at.v, by) if at.v < square else at.v, d)


def _adagrad(algorithm: Mapping[str, Any], at: Element, d: float) -> Element:
    return _adapted(algorithm, at, add(at.v, multiply(d, d)), d)


def _adapted(algorithm: Mapping[str, Any], at: Element, v: float, d: float) -> Element:
    beta1 = algorithm.get("beta1", 0.9)
    m = add(multiply(beta1, at.m), multiply(subtract(1.0, beta1), d))
    scaled = multiply(algorithm["server_learning_rate"], m)
    return Element(moved(at.x, divide(scaled, add(root(v), algorithm.get("tau", 1e-3)))), m, v)


_STEPS: dict[str, Callable[[Mapping[str, Any], Element, float], Element]] = {
    "fedavg": _average,
    "fedprox": _average,
    "fedopt-sgd": _sgd,
    "fedopt-adam": _adam,
    "fedopt-yogi": _yogi,
    "fedopt-adagrad": _adagrad,
}
