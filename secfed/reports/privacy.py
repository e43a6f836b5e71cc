"""The facts of the privacy budget report: what was promised, what it means, what it cost, and what it leaves open.

The order follows NIST SP 800-226, the content "How to DP-fy ML" (Ponomareva et al. 2023, section 5.3). The report is
data first: `build_report` gives what `report.json` holds, and the page shows nothing else. It gives no verdict on the
reader's behalf, and makes no claim without a figure or a reason beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dp.accounting import prv_epsilon
from secfed.account import event_of, noise_of
from secfed.privacy import LocalPrivacy
from secfed.reports.caveats import not_protected
from secfed.reports.mechanism import accounting, overflow_certificate, parameters
from secfed.reports.promise import guarantee
from secfed.reports.repeated import repeated_rounds
from secfed.reports.risk import Risk, Training, assess
from secfed.run_facts import RunKind
from secfed.study import Study


def build_report(study: Study, summary: Mapping[str, Any], epsilon_prv: float | None = None) -> dict[str, Any]:
    """The report as plain data: text, numbers, lists and tables, ready for JSON. Takes some seconds in the accountant.

    Args:
        study: the signed study that ran.
        summary: what `summary.json` holds.
        epsilon_prv: the cross-check by privacy random variables. Computed by default; a verifier, which loads neither
            Opacus nor torch for it, gives the figure of the report that it compares.
    """
    hospitals = summary["hospitals"]
    training = Training(event_of(study), study.privacy.delta, noise_of(study))
    risk = assess(training)
    if epsilon_prv is None:
        event = training.event
        epsilon_prv = prv_epsilon(event.sampling_rate, event.noise_multiplier, event.steps, training.delta)
    how = summary["how_it_ran"]
    kind = RunKind(how["kind"])
    return {
        "format": 1,
        "title": "Privacy budget report",
        "study": {"name": study.name, "purpose": study.purpose, "digest": summary["study_digest"]},
        "run": {
            "kind": kind.value,
            "on_one_machine": how["on_one_machine"],
            "held_back": how["held_back"],
            "engine": summary["engine"],
            "started": summary["started"],
            "finished": summary["finished"],
            "seconds": summary["seconds"],
            "rounds_planned": study.algorithm.rounds,
        },
        "guarantee": guarantee(study, risk, kind),
        "risk": _risk(risk),
        "parties": _parties(study, summary),
        "parameters": parameters(study, summary["clip"]),
        "overflow_certificate": overflow_certificate(study),
        "accounting": accounting(study, risk, kind is RunKind.FEDERATION, epsilon_prv),
        "not_protected": not_protected(study, risk, how) + repeated_rounds(summary["rounds"], study.party),
        "rounds": [_round(study, each) for each in summary["rounds"]],
        "hospitals": [_hospital(each) for each in hospitals],
        "utility": {
            "accuracy_before": summary["accuracy_before"],
            "accuracy_after": summary["accuracy_after"],
            "measured_on": "the study's held-out test set, which this guarantee does not cover: such figures "
            "belong on public or synthetic data only",
        },
        "coordinators_word": list(summary["coordinators_word"]),
        "evidence": _evidence(study, summary),
        "versions": dict(summary["versions"]),
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
        "gaussian_mu_at_most": risk.gaussian_mu,
        "epsilon_replace_one": risk.epsilon_replace_one,
        "patient_at_several_hospitals": [
            {"hospitals": count, "epsilon": value} for count, value in risk.epsilon_at_hospitals
        ],
        "failing_nodes": [
            {
                "failing": row.failing,
                "noise_multiplier": row.noise_multiplier,
                "epsilon": row.epsilon if math.isfinite(row.epsilon) else None,
            }
            for row in risk.failing
        ],
    }


def _parties(study: Study, summary: Mapping[str, Any]) -> dict[str, Any]:
    rules = study.cohort_rules()
    total = len(study.roster)
    return {
        "called": study.party,
        "roster": [{"name": entry.name, "patients_nominal": entry.patients} for entry in study.roster],
        "engine": summary["engine"],
        "colluders": study.cohort.colluders,
        "quorum": rules.quorum(total),
        "smallest_cohort": rules.smallest_legal(total),
        "dropouts_tolerated": rules.really_tolerated(total),
    }


def _round(study: Study, summary: Mapping[str, Any]) -> dict[str, Any]:
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
    return {key: summary[key] for key in kept} | {"noise_as_run": _noise_as_run(study, len(summary["survivors"]))}


def _noise_as_run(study: Study, survivors: int) -> float | None:
    """The noise multiplier of a round's sum when c of its survivors give theirs away; None where there is no sum.

    Known after the fact only, and true only if attendance did not depend on sums released before: in no verdict.
    """
    if not survivors:
        return None
    if isinstance(study.privacy, LocalPrivacy):
        return study.privacy.noise_multiplier
    shares = study.noise_shares
    return shares.seen(study.privacy.noise_multiplier, survivors, shares.colluders)


def _hospital(summary: Mapping[str, Any]) -> dict[str, Any]:
    """One hospital's account, and what all studies of its population come to."""
    kept = (
        "name",
        "patients_nominal",
        "epsilon",
        "delta",
        "budget_epsilon",
        "budget_delta",
        "budget_since",
        "studies",
        "reserved_epsilon",
        "reserved_delta",
        "spent_epsilon",
        "spent_delta",
        "left_epsilon",
        "left_delta",
        "rounds_committed",
        "rounds_released",
        "ledger_sequence",
        "noise_multiplier",
        "epsilon_by_round",
    )
    return {key: summary[key] for key in kept}


def _evidence(study: Study, summary: Mapping[str, Any]) -> list[dict[str, str]]:
    rows = [
        (f"Study (canonical values, signed by every {study.party})", summary["study_digest"]),
        ("Base model", study.model.digest),
        ("Adapter", summary["adapter_digest"]),
    ]
    for each in summary["rounds"]:
        for what in ("sum", "receipt"):
            if each[f"{what}_digest"]:
                rows.append((f"Round {each['number']}, {what}", each[f"{what}_digest"]))
    rows += [(f"Ledger of {each['name']}, last entry", each["ledger_head"]) for each in summary["hospitals"]]
    return [{"of": of, "digest": value} for of, value in rows]
