"""How the run kept its promise, for people who check it: parameters, why no sum can wrap, and the accounting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from secfed.files.figures import LEAST
from secfed.reports.cross_checks import Answers, as_rows
from secfed.reports.risk import Risk
from secfed.study.account import event_of, noise_of
from secfed.study.algorithms import describe
from secfed.study.manifest import Study
from secfed.study.mechanisms.words import Row
from secfed.study.vouchers import Statement


def parameters(study: Study, clip: float | None = None) -> list[dict[str, Any]]:
    """Every parameter with its name, symbol, value and meaning.

    Args:
        study: what was signed.
        clip: C after the last round, where it adapts.
    """
    mechanism = study.mechanism
    rows = [
        *mechanism.clip_rows(clip),
        ("Sampling rate", "q", f"{study.privacy.sampling_rate:g}", mechanism.sampling_meaning),
        *mechanism.parameter_rows(),
        ("Strategy", "", describe(study.algorithm), mechanism.strategy_meaning()),
        *_model_rows(study),
        ("Ring", "b", f"{study.overflow_certificate.ring_bits} bits", "sums are taken modulo 2^b"),
    ]
    return [dict(zip(("name", "symbol", "value", "meaning"), row, strict=True)) for row in rows]


def _model_rows(study: Study) -> list[Row]:
    lora = study.lora
    layers = "all layers" if lora.layers is None else f"layers {', '.join(map(str, lora.layers))}"
    return [
        (
            "Adapter",
            "",
            f"LoRA rank {lora.rank}, alpha {lora.alpha}",
            f"variant {lora.variant}, on {', '.join(lora.targets)} of {layers}",
        ),
        ("Base model", "", study.model.base, study.model.digest),
    ]


def overflow_certificate(study: Study) -> dict[str, Any]:
    """Why the ring cannot wrap, in figures and as a sentence."""
    certificate = study.overflow_certificate
    size, half = certificate.roster_size, 2 ** (certificate.ring_bits - 1)
    sure, most = study.mechanism.no_wrap()
    return {
        "roster_size": size,
        "largest_input": certificate.magnitude,
        "noise_tail": certificate.noise_tail,
        "worst_sum": certificate.worst_sum,
        "half_ring": half,
        "sentence": f"{sure}: {most} = {certificate.worst_sum} is below 2^{certificate.ring_bits - 1} = {half}.",
    }


def accounting(study: Study, risk: Risk, others: Answers, rests_on: Sequence[Statement]) -> dict[str, Any]:
    """What was accounted for, how, and what it rests on.

    Args:
        study: what was signed.
        risk: its figures.
        others: what the cross-checks gave.
        rests_on: statement by statement.
    """
    event, noise = event_of(study), noise_of(study)
    analysed, released = study.mechanism.analysed()
    terms = noise.delta_terms(event, event.noise_multiplier, risk.epsilon)
    return {
        "method": f"privacy loss distribution (PLD), {analysed}, rounded pessimistically",
        "library": "dp-accounting",
        "event": released,
        "event_tree": str(event.dp_event()),
        "epsilon": risk.epsilon,
        "analysed_delta": risk.analysed_delta,
        "cross_checks": as_rows(others, risk.epsilon),
        "attendance": (
            f"the figure counts all planned rounds, whether or not a {study.party} took part in them, and the noise of "
            f"the fewest {study.party}s: the aggregator's choice of who takes part cannot change it"
        ),
        "rests_on": [row.as_json() for row in rests_on],
        "sampler": study.mechanism.sampler,
        "delta_terms": [
            {"of": of, "delta_at_most": max(value, LEAST)} for of, value in study.mechanism.delta_rows(terms)
        ],
    }
