"""How the run kept its promise, for who checks it: parameters, why no sum can wrap, and the accounting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dp.delta_terms import LocalNoise, Noise
from dp.events import NoisedSums, Unit
from dp.step_plan import OVERFLOW_BITS
from secfed.files.figures import LEAST
from secfed.reports.cross_checks import Answers, as_rows
from secfed.reports.risk import Risk
from secfed.reports.vouchers import Statement
from secfed.study.account import event_of, noise_of
from secfed.study.algorithms import Algorithm, FedAvg, FedOptAdamBC, FedProx, describe
from secfed.study.manifest import Study
from secfed.study.privacy import DistributedPrivacy, LocalPrivacy
from secfed.study.privacy import describe as describe_adaptive

_OVERFLOW = "steps in which more are drawn than the padded batches hold"
_Row = tuple[str, str, str, str]


def parameters(study: Study, clip: float | None = None) -> list[dict[str, Any]]:
    """Name, symbol, value, meaning.

    Args:
        study: what was signed.
        clip: C after the last round, where it adapts.
    """
    privacy, unit, nodes = study.privacy, study.privacy.protects.value, study.privacy.protects is Unit.NODE
    rows = [
        *_clip_rows(study, clip),
        (
            "Sampling rate",
            "q",
            f"{privacy.sampling_rate:g}",
            "nodes are not drawn by chance: everybody sees that a node takes part, and that hides nothing"
            if nodes
            else f"chance of each {unit} to be drawn in a step, by a secret coin",
        ),
        *(_local_rows(study) if isinstance(privacy, LocalPrivacy) else _distributed_rows(study, privacy)),
        ("Strategy", "", describe(study.algorithm), _meaning(study)),
        *_model_rows(study),
        ("Ring", "b", f"{study.overflow_certificate.ring_bits} bits", "sums are taken modulo 2^b"),
    ]
    return [dict(zip(("name", "symbol", "value", "meaning"), row, strict=True)) for row in rows]


def _clip_rows(study: Study, clip: float | None) -> list[_Row]:
    privacy, unit, what = study.privacy, study.privacy.protects.value, "gradient"
    if privacy.protects is Unit.NODE:
        what = "update"
    longest = f"longest {what} that one {unit} may contribute (L2)"
    if isinstance(privacy, LocalPrivacy) or privacy.adaptive_clip is None:
        return [("Clipping norm", "C", f"{privacy.clip:g}", longest)]
    settings = privacy.adaptive_clip
    last = "" if clip is None else f", {clip:.4g} after the last round"
    return [
        (
            "Clipping norm",
            "C",
            f"{privacy.clip:g} at first{last}",
            f"{longest}; {describe_adaptive(settings, what)}, by published sums alone; the noise is in proportion",
        ),
        (
            "Clipping indicator",
            "κ",
            f"{settings.indicator:g}",
            f"the element that says whether the {what} was shortened, in units of a vector's largest norm: it is "
            f"clipped and noised together with the {what}, which has √(1 - κ²) of that norm",
        ),
    ]


def _local_rows(study: Study) -> list[_Row]:
    algorithm, point = study.algorithm, study.fixed_point
    if algorithm.local is None:
        raise TypeError("a study in local mode has local training")
    local = algorithm.local
    return [
        (
            "Noise multiplier",
            "σ",
            f"{study.privacy.noise_multiplier:g}",
            "standard deviation of the noise each hospital adds to every sum of gradients, in units of C",
        ),
        (
            "Private steps",
            "T",
            f"{study.steps}",
            f"{algorithm.rounds} rounds of {local.steps} local steps, all of them accounted for",
        ),
        ("Records per drawn patient and step", "", "1", "chosen at random among the patient's records, anew each time"),
        _batches_row({study.local_plan(index).batches for index in range(len(study.roster))}),
        ("Optimiser", "", f"{local.optimizer}, {local.learning_rate:g}", "works on noised gradients only"),
        (
            "Grid",
            "",
            f"steps of 2^-{point.fraction_bits}",
            f"each element of an update is cut to ±{point.limit / 2**point.fraction_bits:g}, after the noise",
        ),
    ]


def _distributed_rows(study: Study, privacy: DistributedPrivacy) -> list[_Row]:
    shares, what = study.noise_shares, "updates" if privacy.protects is Unit.NODE else "gradients"
    return [
        (
            "Noise multiplier, nominal",
            "σ",
            f"{privacy.noise_multiplier:g}",
            f"standard deviation, in units of C, of what is left of {shares.quorum} {study.party}s' noise when "
            f"{shares.colluders} give theirs away",
        ),
        (
            f"Noise of one {study.party}",
            "",
            f"{shares.share(privacy.noise_multiplier):.4g}",
            f"σ / √(t - c) with t = {shares.quorum} and c = {shares.colluders}, in units of C: discrete Gaussian, "
            "drawn afresh for every element and round",
        ),
        *(_node_rows(study) if privacy.protects is Unit.NODE else _step_rows(study, privacy)),
        (
            "Grid",
            "",
            f"{privacy.grid} steps per {'C' if privacy.adaptive_clip is None else 'C / √(1 - κ²)'}",
            f"{what} are rounded toward zero after the clip; from there everything is whole numbers",
        ),
    ]


def _step_rows(study: Study, privacy: DistributedPrivacy) -> list[_Row]:
    """What a step of all hospitals together is made of."""
    return [
        ("Private steps", "T", f"{study.steps}", "one step of all hospitals together in a round, all accounted for"),
        (
            "Records per drawn patient and step",
            "G",
            f"at most {privacy.records_per_patient}",
            "chosen at random among the patient's records, anew each time; added up and clipped once",
        ),
        _batches_row({study.step_plan(index).batches for index in range(len(study.roster))}),
    ]


def _batches_row(batches: set[int]) -> _Row:
    """K of all hospitals."""
    fewest, most = min(batches), max(batches)
    return (
        "Batches per step",
        "K",
        f"{fewest}" if fewest == most else f"{fewest} to {most}, by the hospital's nominal size",
        f"always exactly this many, filled up: more are drawn with a chance below 2^-{OVERFLOW_BITS}",
    )


def _node_rows(study: Study) -> list[_Row]:
    """What a node's update comes from."""
    plan = study.node_plan()
    return [
        ("Rounds", "T", f"{study.steps}", "one noised sum of all nodes' updates in each, all accounted for"),
        (
            "Local steps",
            "",
            f"{plan.steps} in a round, of {plan.physical_batch} records",
            "without noise: what they come to is clipped as a whole; a node with fewer records repeats them",
        ),
        ("Local optimiser", "", f"{plan.optimizer}, {plan.learning_rate:g}", "starts afresh in every round"),
    ]


def _model_rows(study: Study) -> list[_Row]:
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


def _meaning(study: Study) -> str:
    """What the strategy does with privacy: nothing, in every case, and why."""
    algorithm: Algorithm = study.algorithm
    if study.privacy.protects is Unit.NODE:
        mean = "the sum, divided by the number of its nodes, is the mean update; works on published sums only"
        if isinstance(algorithm, FedProx):
            return f"{mean}; the proximal term is part of local training, before the clip"
        return f"{mean}, less the noise's public variance" if isinstance(algorithm, FedOptAdamBC) else mean
    if isinstance(study.privacy, DistributedPrivacy):
        gradient = "the sum, divided by the public q N of its hospitals, is the gradient; works on published sums only"
        return f"{gradient}, less the noise's public variance" if isinstance(algorithm, FedOptAdamBC) else gradient
    weighted = "updates are averaged, weighted by the nominal numbers of patients, which are public"
    if isinstance(algorithm, FedAvg):
        return weighted
    if isinstance(algorithm, FedProx):
        return f"{weighted}; the proximal term depends on no data, and is added after clipping and noise"
    return f"{weighted}; the optimiser works on the published sums only"


def overflow_certificate(study: Study) -> dict[str, Any]:
    """Why the ring cannot wrap, in figures and as a sentence."""
    certificate = study.overflow_certificate
    size, half = certificate.roster_size, 2 ** (certificate.ring_bits - 1)
    if isinstance(study.privacy, LocalPrivacy):
        weight, limit = max(study.weights), study.fixed_point.limit
        most = f"{size} hospitals × weight {weight} × element {limit}"
        sure = "The sum cannot wrap, whoever takes part"
    else:
        units = f"{certificate.magnitude // study.privacy.grid} {study.privacy.protects.value}s"
        if study.privacy.protects is Unit.NODE:
            units = "one update"
        most = f"{size} {study.party}s × ({units} × {study.privacy.grid} steps + {study.noise_tail} of noise)"
        sure = (
            "An overflow, which would spoil the model, has a chance below 1 in 10^12 over the whole study, whoever "
            "takes part"
        )
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
    unit, gaussian = study.privacy.protects.value, f"Gaussian noise σ = {event.noise_multiplier:g}"
    mechanism = f"add-or-remove one {unit}, Poisson-sampled Gaussian mechanism"
    released = f"{event.steps} × Poisson sampling at q = {event.sampling_rate:g} of {gaussian}"
    if study.privacy.protects is Unit.NODE:
        mechanism = "zero-out one node, Gaussian mechanism without sampling"
        released = f"{event.steps} × {gaussian}"
    facts: dict[str, Any] = {
        "method": f"privacy loss distribution (PLD), {mechanism}, rounded pessimistically",
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
    }
    return facts | _noise_facts(event, noise, risk.epsilon)


def _noise_facts(event: NoisedSums, noise: Noise, epsilon: float) -> dict[str, Any]:
    """How noise is drawn, and what is taken off delta."""
    terms = noise.delta_terms(event, event.noise_multiplier, epsilon)
    if isinstance(noise, LocalNoise):
        return {
            "sampler": "real-number Gaussian in double precision, from a cryptographic stream under a secret of its "
            "own; that rounding in the sampler reveals nothing is assumed, not proved",
            "delta_terms": [{"of": _OVERFLOW, "delta_at_most": max(terms.overflow, LEAST)}],
        }
    return {
        "sampler": "discrete Gaussian in whole-number arithmetic, from a cryptographic stream under a secret of its "
        f"own; each number is within a total variation of {noise.sampler_error:.1g} of the exact distribution",
        "delta_terms": [
            {"of": of, "delta_at_most": max(value, LEAST)}
            for of, value in (
                ("the sampler's distance from the exact distribution", terms.sampler),
                *([] if event.unit is Unit.NODE else [(_OVERFLOW, terms.overflow)]),
                ("a sum of discrete Gaussians is not quite one", terms.convolution),
                ("a discrete Gaussian stands for a continuous one", terms.discretisation),
            )
        ],
    }
