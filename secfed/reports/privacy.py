"""The facts of the privacy budget report: what was promised, what it means, what it cost, and what it leaves open.

The order follows NIST SP 800-226, the content "How to DP-fy ML" (Ponomareva et al. 2023, section 5.3). The report is
data first: `build_report` gives what `report.json` holds, and the page shows nothing else. The report leaves the
verdict to its reader. Every claim has a figure or a reason beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from secfed.reports.caveats import not_protected
from secfed.reports.cross_checks import Answers, ask_prv, ask_renyi
from secfed.reports.mechanism import accounting, overflow_certificate, parameters
from secfed.reports.promise import guarantee
from secfed.reports.repeated import repeated_rounds
from secfed.reports.rests_on import statements
from secfed.reports.risk import Risk, Training, assess
from secfed.rounds.run_facts import RunKind
from secfed.study.account import event_of, noise_of
from secfed.study.manifest import Study
from secfed.study.vouchers import Voucher


def build_report(study: Study, summary: Mapping[str, Any], others: Answers | None = None) -> dict[str, Any]:
    """The report as plain data: text, numbers, lists and tables, ready for JSON. Takes some seconds in the accountant.

    Args:
        study: the signed study that ran.
        summary: what `summary.json` holds.
        others: answers of the cross-checks; by default they are made here. A verifier passes those that it took from
            the report that it checks, so that it needs neither Opacus nor torch (`secfed.verify.report`).
    """
    training = Training(event_of(study), study.privacy.delta, noise_of(study))
    risk = assess(training)
    if others is None:
        others = Answers(ask_renyi(training, risk), ask_prv(training, risk))
    how = summary["how_it_ran"]
    kind = RunKind(how["kind"])
    return {
        "format": 2,
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
        "guarantee": guarantee(study, risk, summary, kind),
        "risk": _risk(risk),
        "parties": _parties(study, summary),
        "parameters": parameters(study, summary["clip"]),
        "overflow_certificate": overflow_certificate(study),
        "accounting": accounting(study, risk, others, statements(study, summary, kind)),
        "not_protected": not_protected(study, risk, how) + repeated_rounds(summary["rounds"], study.party),
        "rounds": [_round(each) for each in summary["rounds"]],
        "noise_as_run": _noise_as_run(study, summary["rounds"]),
        "hospitals": [_hospital(each) for each in summary["hospitals"]],
        "utility": {
            **{key: summary[key] for figure in study.task.figures for key in figure.keys},
            "measured_on": "the study's held-out test set. The guarantee does not cover that set, so it should hold "
            "public or synthetic data only",
        },
        "evidence": _evidence(study, summary),
        "versions": dict(summary["versions"]),
        "vouched_by": _WHO,
    }


_WHO = {
    "run.kind": Voucher.PROVED.value,
    "run.on_one_machine": Voucher.PROVED.value,
    "run.held_back": Voucher.PROVED.value,
    **{f"run.{name}": Voucher.COORDINATOR.value for name in ("engine", "started", "finished", "seconds")},
    **dict.fromkeys(("guarantee", "risk", "parties", "parameters", "overflow_certificate"), Voucher.PROVED.value),
    **dict.fromkeys(("accounting", "hospitals", "rounds"), Voucher.PROVED.value),
    **{f"rounds.{name}": Voucher.COORDINATOR.value for name in ("dropped", "seconds", "bytes_up", "bytes_down")},
    "utility": Voucher.COORDINATOR.value,
    "evidence": Voucher.PROVED.value,
    "versions": Voucher.COORDINATOR.value,
}
"""Who vouches for the figures of each part. `accounting.rests_on` says it statement by statement."""


def _risk(risk: Risk) -> dict[str, Any]:
    return {
        "membership": [
            {
                "false_positive_rate": bound.false_positive_rate,
                "true_positive_rate_at_most": bound.true_positive_rate,
            }
            for bound in risk.membership
        ],
        "membership_advantage_at_most": risk.membership_advantage,
        "best_test_right_at_most": risk.best_test,
        "best_test_right_at_most_at_two_hospitals": risk.best_test_at_two,
        "gaussian_mu_at_most": _finite(risk.gaussian_mu),
        "epsilon_at_a_tenth_of_delta": _finite(risk.epsilon_at_tenth),
        "epsilon_replace_one": _finite(risk.epsilon_replace_one),
        "patient_at_several_hospitals": [
            {"hospitals": count, "epsilon": _finite(value)} for count, value in risk.epsilon_at_hospitals
        ],
        "failing_nodes": [
            {"failing": row.failing, "noise_multiplier": row.noise_multiplier, "epsilon": _finite(row.epsilon)}
            for row in risk.failing
        ],
        "epsilon_at_two_hospitals_and_one_more_failing": _finite(risk.epsilon_at_two_one_more_failing),
    }


def _finite(value: float | None) -> float | None:
    """None stands for no limit, because JSON has no infinity, and for no figure."""
    return value if value is not None and math.isfinite(value) else None


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


def _noise_as_run(study: Study, rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The noise multiplier of each round's sum if c of its survivors give their noise away; None where there is no sum.

    It is known only after the run, and no figure uses it. So it is in `report.json`, marked as such, and not on the
    page.
    """
    counts = [len(each["survivors"]) for each in rounds]
    return {
        "holds": "only if attendance did not depend on sums released before; no figure of this report uses it",
        "noise_multipliers": [study.mechanism.noise_as_run(count) if count else None for count in counts],
    }


def _hospital(summary: Mapping[str, Any]) -> dict[str, Any]:
    """One site's account, and the totals of all studies on its population."""
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
