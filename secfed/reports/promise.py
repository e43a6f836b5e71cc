"""The promise in words: for whom, how strong, against whom, and where it is weaker. It depends on the mode, and on how
the study ran.

What all studies on the same people have come to stands first, for that is what a person's privacy has cost; this study
is a part of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dp.events import Relation, Unit
from secfed.files.figures import in_words, one_in, percent, rounded_up, scientific, two_digits_up
from secfed.reports.risk import Risk
from secfed.rounds.run_facts import RunKind
from secfed.study.account import event_of, honest_enough
from secfed.study.manifest import Study
from secfed.study.privacy import LocalPrivacy

_PUBLISHED = "anybody who sees what the study published: the adapter and the sums of all rounds"
_DIFFERENCES = {Relation.ADD_OR_REMOVE: "add or remove", Relation.ZERO_OUT: "zero out"}
_UNITS = {
    Unit.PATIENT: ("one patient", "with all records that the hospital holds of that patient"),
    Unit.RECORD: ("one record", "of whomever"),
    Unit.NODE: ("one node", "with all its data"),
}


def guarantee(study: Study, risk: Risk, summary: Mapping[str, Any], kind: RunKind) -> dict[str, Any]:
    """The report's first section.

    Args:
        study: what was signed.
        risk: its figures.
        summary: what `summary.json` holds.
        kind: how it ran. Where one process, or one machine, ran every party, nothing is claimed against others.
    """
    privacy = study.privacy
    unit, extent = _UNITS[privacy.protects]
    adjacency = f"{_DIFFERENCES[event_of(study).relation]} {unit}"
    held_back, nodes = summary["how_it_ran"]["held_back"], len(study.roster)
    against, note = _deployed(study, held_back) if kind is RunKind.FEDERATION else _together(study, kind)
    without = "if one node had contributed zero in place of what its data gives" if unit == "one node" else ""
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
            f"What was published would look nearly the same {without or f'without any {unit}'}; how nearly is in the "
            f"table of section 1. This holds against {against}."
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
    whose = "the people behind" if study.privacy.protects is Unit.NODE else "the patients of"
    start = f"In all studies since the budget was granted, tuning and aborted ones included, {whose}"
    spent = sorted({(each["reserved_epsilon"], each["reserved_delta"], each["studies"]) for each in hospitals})
    told = [
        f"epsilon {rounded_up(epsilon, 2)} at delta {scientific(delta)} together "
        f"({studies} {'study' if studies == 1 else 'studies'})"
        for epsilon, delta, studies in spent
    ]
    if len(told) == 1:
        return f"{start} every {study.party} were promised {told[0]}."
    return f"{start} each {study.party} were promised from {told[0]} to {told[-1]}; which, is in section 2."


def _outside(study: Study, risk: Risk) -> str:
    """What delta means, for one unit and for all of the study, and how steeply epsilon rises below it."""
    delta, unit = study.privacy.delta, study.privacy.protects.value
    everybody = len(study.roster) if unit == "node" else sum(study.weights)
    fewer = scientific(delta / 10)
    over_all = f"{two_digits_up(delta * everybody)} over the {everybody:,} of this study"
    cliff = f"At delta {fewer} there is no figure: the noise's own terms take more than that."
    if math.isfinite(risk.epsilon_at_tenth):
        cliff = f"No cliff: epsilon is {rounded_up(risk.epsilon_at_tenth, 2)} at delta {fewer}."
    return f"Outside this bound: at most {one_in(delta)} per {unit} ({over_all}). {cliff}"


def _best_test(study: Study, risk: Risk) -> str:
    half = (
        "If half of a group of nodes contributed what their data gives, and half zero, the best test of which did is"
        if study.privacy.protects is Unit.NODE
        else "If half of a group took part, the best test is"
    )
    return f"{half} right for at most {percent(risk.best_test)}; a coin for 50 %."


def _weaker(study: Study, risk: Risk) -> list[str]:
    """For whom, and against whom, the figures are others."""
    privacy, party, unit = study.privacy, study.party, _UNITS[study.privacy.protects][0]
    rows = []
    if risk.epsilon_at_hospitals:
        two, three = (rounded_up(risk.epsilon_at_hospitals[count - 1][1], 2) for count in (2, 3))
        rows.append(
            f"If {unit} is at two hospitals of this study: epsilon {two}, and the best test is right for at most "
            f"{percent(risk.best_test_at_two)}; at three: epsilon {three}."
        )
    if not isinstance(privacy, LocalPrivacy):
        more = study.cohort.colluders + 1
        against = f"{in_words(more)} {party}s work against the others, or leak their noise or leave it out"
        rows.append(f"If {against}: {_figure(risk.epsilon_of_failing(more))}.")
        if risk.epsilon_at_two_one_more_failing is not None:
            rows.append(
                f"If {unit} is at two hospitals and {in_words(more)} {party}s do so: "
                f"{_figure(risk.epsilon_at_two_one_more_failing)}."
            )
    exchange, figure = rounded_up(risk.epsilon_replace_one, 2), rounded_up(risk.epsilon, 2)
    if privacy.protects is Unit.NODE:
        rows.append(
            f"The promise of {figure} is for contributing or not; for a change of a node's data it is {exchange}."
        )
    else:
        says = "what a record says" if privacy.protects is Unit.PATIENT else "what it says"
        rows.append(
            f"The promise of {figure} is for taking part or not; for {says} (a changed diagnosis) it is {exchange}."
        )
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
    if isinstance(study.privacy, LocalPrivacy):
        return _PUBLISHED, note
    shares = study.noise_shares
    return _PUBLISHED, (
        f"{note} The figure leaves room for {in_words(shares.colluders)} of the {study.party}s to give noise away: it "
        f"counts the noise of {in_words(shares.honest)}."
    )


def _deployed(study: Study, held_back: int) -> tuple[str, str]:
    durations = f"not counting what durations show: uploads were held back at {held_back} of {len(study.roster)}"
    if isinstance(study.privacy, LocalPrivacy):
        return (
            "everybody outside the patient's own hospital: the public, the aggregator, and all other hospitals "
            f"together; {durations} hospitals",
            "Each hospital adds enough noise on its own, so that this does not depend on secure aggregation, nor on "
            "how any other party behaves. Secure aggregation hides each hospital's update on top of it.",
        )
    shares, party = study.noise_shares, study.party
    return (
        f"the public, the aggregator and the other {party}s, as long as {honest_enough(study)}, and nobody breaks the "
        f"cryptography; {durations} {party}s",
        f"Every {party} adds a share of the noise, and secure aggregation publishes the noised sum alone. At least "
        f"{shares.quorum} {party}s are in every sum; the figure counts the noise of {shares.honest} of them. What it "
        "is when more of them fail is in the table of section 1.",
    )
