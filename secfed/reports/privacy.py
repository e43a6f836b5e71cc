"""The facts of the privacy budget report: what was promised, what it means, what it cost, and what it leaves open.

The order follows NIST SP 800-226, the content "How to DP-fy ML" (Ponomareva et al. 2023, section 5.3). The report is
data first: `build_report` gives what `report.json` holds, and the page shows nothing else. It gives no verdict on the
reader's behalf, and makes no claim without a figure or a reason beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from secfed.algorithms import Algorithm, FedAvg, FedProx, describe
from secfed.reports.caveats import assumptions, not_protected
from secfed.reports.risk import Risk, Training, assess, scientific
from secfed.study import Study


def build_report(study: Study, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The report as plain data: text, numbers, lists and tables, ready for JSON.

    Args:
        study: the signed study that ran.
        summary: what `summary.json` holds. Takes a few seconds, most of them in the accountant.
    """
    hospitals = summary["hospitals"]
    training = Training(
        sampling_rate=study.privacy.sampling_rate,
        # All hospitals of a study have one noise multiplier; should one ever have less, it is the one to report.
        noise_multiplier=min(each["noise_multiplier"] for each in hospitals),
        steps=study.steps,
        delta=study.privacy.delta,
    )
    risk = assess(training)
    simulation = "simulation" in summary["engine"]
    return {
        "format": 1,
        "title": "Privacy budget report",
        "study": {"name": study.name, "purpose": study.purpose, "digest": summary["study_digest"]},
        "run": {
            "engine": summary["engine"],
            "simulation": simulation,
            "started": summary["started"],
            "finished": summary["finished"],
            "seconds": summary["seconds"],
            "rounds_planned": study.algorithm.rounds,
        },
        "guarantee": _guarantee(study, risk, simulation),
        "risk": _risk(risk),
        "parties": _parties(study, summary),
        "parameters": _parameters(study, training),
        "overflow_certificate": _overflow_certificate(study),
        "accounting": _accounting(study, training, risk, simulation),
        "not_protected": not_protected(study, risk, simulation),
        "rounds": [_round(each) for each in summary["rounds"]],
        "hospitals": [_hospital(each) for each in hospitals],
        "utility": {
            "accuracy_before": summary["accuracy_before"],
            "accuracy_after": summary["accuracy_after"],
            "measured_on": "the study's held-out test set, which this guarantee does not cover: such figures "
            "belong on public or synthetic data only",
        },
        "evidence": _evidence(study, summary),
        "versions": dict(summary["versions"]),
    }


def _guarantee(study: Study, risk: Risk, simulation: bool) -> dict[str, Any]:
    against = (
        "anybody who sees what the study published: the adapter and the sums of all rounds"
        if simulation
        else "everybody outside the patient's own hospital: the public, the aggregator, and all other hospitals "
        "together"
    )
    note = (
        "This run was a simulation: one process saw all data. No claim against an aggregator or against another "
        "hospital is made for this run."
        if simulation
        else "Each hospital adds enough noise on its own, so that this does not depend on secure aggregation, nor on "
        "how any other party behaves. Secure aggregation hides each hospital's update on top of it."
    )
    return {
        "epsilon": study.privacy.epsilon,
        "epsilon_accounted": risk.epsilon,
        "delta": study.privacy.delta,
        "unit": "one patient, with all records that the hospital holds of that patient",
        "adjacency": "add or remove one patient",
        "against": against,
        "sentence": (
            f"Training was differentially private with epsilon at most {study.privacy.epsilon:g} at delta "
            f"{scientific(study.privacy.delta)}, for one patient with all records that a hospital holds of that "
            f"patient, when a patient is added or removed, against {against}."
        ),
        "period": "this study alone; what each population has spent on all studies together is under “Budget”",
        "note": note,
    }


def _risk(risk: Risk) -> dict[str, Any]:
    return {
        "membership": [
            {
                "false_positive_rate": bound.false_positive_rate,
                "true_positive_rate_at_most": bound.true_positive_rate,
                "true_positive_rate_at_most_from_epsilon_alone": bound.true_positive_rate_from_epsilon,
            }
            for bound in risk.membership
        ],
        "membership_advantage_at_most": risk.membership_advantage,
        "epsilon_replace_one": risk.epsilon_replace_one,
        "patient_at_several_hospitals": [
            {"hospitals": count, "epsilon": value} for count, value in risk.epsilon_at_hospitals
        ],
    }


def _parties(study: Study, summary: Mapping[str, Any]) -> dict[str, Any]:
    rules = study.cohort_rules()
    total = len(study.roster)
    return {
        "roster": [{"name": entry.name, "patients_nominal": entry.patients} for entry in study.roster],
        "engine": summary["engine"],
        "colluders": study.cohort.colluders,
        "quorum": rules.quorum(total),
        "smallest_cohort": rules.smallest_legal(total),
        "dropouts_tolerated": rules.really_tolerated(total),
    }


def _parameters(study: Study, training: Training) -> list[dict[str, Any]]:
    """Name, symbol, value, meaning."""
    algorithm, lora = study.algorithm, study.lora
    layers = "all layers" if lora.layers is None else f"layers {', '.join(map(str, lora.layers))}"
    sampling = f"{training.sampling_rate:g}"
    rows = [
        ("Clipping norm", "C", f"{study.privacy.clip:g}", "longest gradient that one patient may contribute (L2)"),
        (
            "Noise multiplier",
            "σ",
            f"{training.noise_multiplier:g}",
            "standard deviation of the noise each hospital adds to every sum of gradients, in units of C",
        ),
        ("Sampling rate", "q", sampling, "chance of each patient to be drawn in a step, by a secret coin"),
        (
            "Private steps",
            "T",
            f"{training.steps}",
            f"{algorithm.rounds} rounds of {algorithm.local_steps} local steps, all of them accounted for",
        ),
        ("Records per drawn patient and step", "", "1", "chosen at random among the patient's records, anew each time"),
        ("Optimiser", "", f"{algorithm.optimizer}, {algorithm.learning_rate:g}", "works on noised gradients only"),
        ("Strategy", "", describe(algorithm), _meaning(algorithm)),
        (
            "Adapter",
            "",
            f"LoRA rank {lora.rank}, alpha {lora.alpha}",
            f"variant {lora.variant}, on {', '.join(lora.targets)} of {layers}",
        ),
        ("Base model", "", study.model.base, study.model.digest),
        (
            "Grid",
            "",
            f"steps of 2^-{study.encoding.fraction_bits}",
            f"each element of an update is cut to ±{study.encoding.bound:g}, after the noise",
        ),
        ("Ring", "b", f"{study.overflow_certificate.ring_bits} bits", "sums are taken modulo 2^b"),
    ]
    return [dict(zip(("name", "symbol", "value", "meaning"), row, strict=True)) for row in rows]


def _meaning(algorithm: Algorithm) -> str:
    """What the strategy does with privacy: nothing, in every case, and why."""
    weighted = "updates are averaged, weighted by the nominal numbers of patients, which are public"
    if isinstance(algorithm, FedAvg):
        return weighted
    if isinstance(algorithm, FedProx):
        return f"{weighted}; the proximal term depends on no data, and is added after clipping and noise"
    return f"{weighted}; the optimiser works on the published sums only"


def _overflow_certificate(study: Study) -> dict[str, Any]:
    certificate = study.overflow_certificate
    half = 2 ** (certificate.ring_bits - 1)
    weight = max(study.weights)
    return {
        "roster_size": certificate.roster_size,
        "largest_weight": weight,
        "largest_element": study.element_limit,
        "worst_sum": certificate.worst_sum,
        "half_ring": half,
        "sentence": (
            f"The sum cannot wrap, whoever takes part: {certificate.roster_size} hospitals × weight {weight} × "
            f"element {study.element_limit} = {certificate.worst_sum} is below 2^{certificate.ring_bits - 1} = {half}."
        ),
    }


def _accounting(study: Study, training: Training, risk: Risk, simulation: bool) -> dict[str, Any]:
    return {
        "method": "privacy loss distribution (PLD), add-or-remove one patient, Poisson-sampled Gaussian mechanism",
        "library": "dp-accounting",
        "event": (
            f"{training.steps} × Poisson sampling at q = {training.sampling_rate:g} of "
            f"Gaussian noise σ = {training.noise_multiplier:g}"
        ),
        "epsilon": risk.epsilon,
        "epsilon_second_accountant": risk.epsilon_second_accountant,
        "second_accountant": "Rényi differential privacy at integer orders, an independent method that errs high",
        "sampler": (
            "real-number Gaussian in double precision, from a cryptographic stream under a secret of its own; that "
            "rounding in the sampler reveals nothing is assumed, not proved"
        ),
        "attendance": (
            "the figure counts all planned rounds, whether or not a hospital took part in them: the aggregator's "
            "choice of who takes part cannot change it"
        ),
        "assumptions": assumptions(study, simulation),
    }


def _round(summary: Mapping[str, Any]) -> dict[str, Any]:
    kept = (
        "number",
        "attempt_void",
        "cohort",
        "survivors",
        "dropped",
        "quorum",
        "seconds",
        "bytes_up",
        "bytes_down",
        "ring_bits",
        "dimension",
        "sum_digest",
        "receipt_digest",
        "faults",
    )
    return {key: summary[key] for key in kept}


def _hospital(summary: Mapping[str, Any]) -> dict[str, Any]:
    """One hospital's account. Sums of money are decimal, so that nothing is lost to binary rounding."""
    kept = (
        "name",
        "patients_nominal",
        "epsilon",
        "delta",
        "budget_epsilon",
        "budget_delta",
        "left_epsilon",
        "left_delta",
        "rounds_committed",
        "rounds_released",
        "ledger_sequence",
        "noise_multiplier",
        "epsilon_by_round",
    )
    account = {key: summary[key] for key in kept}
    for part in ("epsilon", "delta"):
        granted, left = (Decimal(str(summary[f"{what}_{part}"])) for what in ("budget", "left"))
        account[f"reserved_{part}"] = float(granted - left)
    return account


def _evidence(study: Study, summary: Mapping[str, Any]) -> list[dict[str, str]]:
    rows = [
        ("Study (canonical values, signed by every hospital)", summary["study_digest"]),
        ("Base model", study.model.digest),
        ("Adapter", summary["adapter_digest"]),
    ]
    for each in summary["rounds"]:
        for what in ("sum", "receipt"):
            if each[f"{what}_digest"]:
                rows.append((f"Round {each['number']}, {what}", each[f"{what}_digest"]))
    rows += [(f"Ledger of {each['name']}, last entry", each["ledger_head"]) for each in summary["hospitals"]]
    return [{"of": of, "digest": value} for of, value in rows]
