"""The promise in words: for whom, how strong, against whom, and where it is weaker. It depends on the mode, and on how
the study ran.

The total of all studies on the same people comes first, because that is what a person's privacy has cost. This study is
a part of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dp.events import Relation
from secfed.files.figures import in_words, one_in, percent, rounded_up, scientific, two_digits_up
from secfed.reports.risk import Risk
from secfed.rounds.run_facts import RunKind
from secfed.study.account import event_of
from secfed.study.manifest import Study

_PUBLISHED = "anybody who sees what the study published: the adapter and the sums of all rounds"
_DIFFERENCES = {Relation.ADD_OR_REMOVE: "add or remove", Relation.ZERO_OUT: "zero out"}


def guarantee(study: Study, risk: Risk, summary: Mapping[str, Any], kind: RunKind) -> dict[str, Any]:
    """The report's first section.

    Args:
        study: what was signed.
        risk: its figures.
        summary: what `summary.json` holds.
        kind: how it ran. Where one process, or one machine, ran every party, nothing is claimed against others.
    """
    privacy, (unit, extent) = study.privacy, study.mechanism.protected
    adjacency = f"{_DIFFERENCES[event_of(study).relation]} {unit}"
    held_back, nodes = summary["how_it_ran"]["held_back"], len(study.roster)
    against, note = _deployed(study, held_back) if kind is RunKind.FEDERATION else _together(study, kind)
    return {
        "mode": privacy.mode,
        "epsilon_allowed": privacy.epsilon,
        "epsilon_accounted": risk.epsilon,
        "delta": privacy.delta,
        "unit": f"{unit} {extent}",
        "protected": unit,
        "extent": extent,
        "adjacency": adjacency,
        "against": against,
        "held_back": held_back,
        "nodes": nodes,
        "since_grant": since_grant(study, summary["hospitals"]),
        "sentence": (
            f"What was published would look nearly the same {study.mechanism.without}; the table in section 1 says how "
            f"nearly. This holds against {against}."
        ),
        "technically": (
            f"Technically: training was differentially private with epsilon {rounded_up(risk.epsilon, 2)} "
            f"({rounded_up(risk.epsilon, 4)}) at delta {scientific(privacy.delta)}, to {adjacency} {extent}."
        ),
        "outside": _outside(study, risk),
        "best_test": _best_test(study, risk),
        "weaker": _weaker(study, risk),
        "note": note,
    }


def since_grant(study: Study, hospitals: Sequence[Mapping[str, Any]]) -> str:
    """What every population has been promised since its budget was granted, in all studies together."""
    whose = study.mechanism.whose_promise
    start = f"In all studies since the budget was granted, tuning and aborted ones included, {whose}"
    spent = sorted({(each["reserved_epsilon"], each["reserved_delta"], each["studies"]) for each in hospitals})
    told = [
        f"epsilon {rounded_up(epsilon, 2)} at delta {scientific(delta)} together "
        f"({studies} {'study' if studies == 1 else 'studies'})"
        for epsilon, delta, studies in spent
    ]
    if len(told) == 1:
        return f"{start} every {study.party} were promised {told[0]}."
    return f"{start} each {study.party} were promised from {told[0]} to {told[-1]}; section 2 lists them."


def _outside(study: Study, risk: Risk) -> str:
    """What delta means, for one unit and for all of the study, and how steeply epsilon rises below it."""
    delta, unit = study.privacy.delta, study.privacy.protects.value
    everybody = sum(study.weights)
    fewer = scientific(delta / 10)
    over_all = f"{two_digits_up(delta * everybody)} over the {everybody:,} of this study"
    cliff = f"At delta {fewer} there is no figure: the terms of the noise alone take more than that."
    if math.isfinite(risk.epsilon_at_tenth):
        cliff = f"No cliff: epsilon is {rounded_up(risk.epsilon_at_tenth, 2)} at delta {fewer}."
    return f"Outside this bound: at most {one_in(delta)} per {unit} ({over_all}). {cliff}"


def _best_test(study: Study, risk: Risk) -> str:
    return f"{study.mechanism.half_of_a_group} right for at most {percent(risk.best_test)}; a coin for 50 %."


def _weaker(study: Study, risk: Risk) -> list[str]:
    """For whom, and against whom, other figures hold."""
    party, unit = study.party, study.mechanism.protected[0]
    rows = []
    if risk.epsilon_at_hospitals:
        two, three = (rounded_up(risk.epsilon_at_hospitals[count - 1][1], 2) for count in (2, 3))
        rows.append(
            f"If {unit} is at two sites of this study: epsilon {two}, and the best test is right for at most "
            f"{percent(risk.best_test_at_two)}; at three: epsilon {three}."
        )
    if risk.failing:  # it depends on the others at all
        more = study.cohort.colluders + 1
        against = f"{in_words(more)} {party}s work against the others, or leak their noise or leave it out"
        rows.append(f"If {against}: {_figure(risk.epsilon_of_failing(more))}.")
        if risk.epsilon_at_two_one_more_failing is not None:
            rows.append(
                f"If {unit} is at two sites and {in_words(more)} {party}s do so: "
                f"{_figure(risk.epsilon_at_two_one_more_failing)}."
            )
    rows.append(study.mechanism.for_a_change(rounded_up(risk.epsilon, 2), rounded_up(risk.epsilon_replace_one, 2)))
    return rows


def _figure(epsilon: float) -> str:
    return f"epsilon {rounded_up(epsilon, 2)}" if math.isfinite(epsilon) else "no limit"


def _together(study: Study, kind: RunKind) -> tuple[str, str]:
    if kind is RunKind.SIMULATION:
        note = (
            "SIMULATION: one process held every party's data. Nothing is claimed against whoever ran it, against an "
            f"aggregator, or against another {study.party}."
        )
    else:
        note = "DEMONSTRATION: all parties ran on one machine. Nothing is claimed against whoever ran it."
    return _PUBLISHED, note + study.mechanism.room


def _deployed(study: Study, held_back: int) -> tuple[str, str]:
    return study.mechanism.against(
        f"not counting what durations show: uploads were held back at {held_back} of {len(study.roster)} {study.party}s"
    )
