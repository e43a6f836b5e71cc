"""The guarantee in words: for whom, how strong, against whom. It depends on the mode, and on what engine ran it."""

from __future__ import annotations

from typing import Any

from dp.events import Relation, Unit
from secfed.account import event_of
from secfed.figures import scientific
from secfed.privacy import LocalPrivacy
from secfed.reports.risk import Risk
from secfed.run_facts import RunKind
from secfed.study import Study

_PUBLISHED = "anybody who sees what the study published: the adapter and the sums of all rounds"
_DIFFERENCES = {
    Relation.ADD_OR_REMOVE: ("add or remove", "it is added or removed"),
    Relation.ZERO_OUT: ("zero out", "its contribution is replaced by zero (everybody knows that it takes part)"),
}
_UNITS = {
    Unit.PATIENT: ("one patient", "with all records that the hospital holds of that patient"),
    Unit.RECORD: ("one record", "of whomever"),
    Unit.NODE: ("one node", "with all its data"),
}


def guarantee(study: Study, risk: Risk, kind: RunKind) -> dict[str, Any]:
    """The report's first section.

    Args:
        study: what was signed.
        risk: its figures.
        kind: how it ran. Where one process saw all data, or one machine, no claim against an aggregator can be made.
    """
    privacy = study.privacy
    unit, extent = _UNITS[privacy.protects]
    adjacency, difference = _DIFFERENCES[event_of(study).relation]
    against, note = _deployed(study) if kind is RunKind.FEDERATION else _together(study, kind)
    return {
        "mode": privacy.mode,
        "epsilon": privacy.epsilon,
        "epsilon_accounted": risk.epsilon,
        "delta": privacy.delta,
        "unit": f"{unit} {extent}",
        "protected": unit,
        "extent": extent,
        "adjacency": f"{adjacency} {unit}",
        "against": against,
        "sentence": (
            f"Training was differentially private with epsilon at most {privacy.epsilon:g} at delta "
            f"{scientific(privacy.delta)}, for {unit} {extent}, when {difference}, against {against}."
        ),
        "period": "this study alone; what each population has spent on all studies together is under “Budget”",
        "note": note,
    }


def _together(study: Study, kind: RunKind) -> tuple[str, str]:
    note = (
        "This run was a simulation: one process saw all data. No claim against an aggregator or against another "
        f"{study.party} is made for this run."
        if kind is RunKind.SIMULATION
        else f"DEMONSTRATION: all {study.party}s ran on one machine, as each of them has signed. Nothing is claimed "
        "against whoever ran it."
    )
    if isinstance(study.privacy, LocalPrivacy):
        return _PUBLISHED, note
    shares = study.noise_shares
    return _PUBLISHED, (
        f"{note} The figure leaves room for {shares.colluders} of the {study.party}s to give their noise away: it "
        f"counts the noise of {shares.honest}."
    )


def _deployed(study: Study) -> tuple[str, str]:
    if isinstance(study.privacy, LocalPrivacy):
        return (
            "everybody outside the patient's own hospital: the public, the aggregator, and all other hospitals "
            "together",
            "Each hospital adds enough noise on its own, so that this does not depend on secure aggregation, nor on "
            "how any other party behaves. Secure aggregation hides each hospital's update on top of it.",
        )
    shares, party = study.noise_shares, study.party
    return (
        f"the public, the aggregator and the other {party}s, as long as at most "
        f"{shares.colluders} of the {party}s collude with it, leak their noise, or fail to add it, and nobody breaks "
        "the cryptography",
        f"Every {party} adds a share of the noise, and secure aggregation publishes the noised sum alone. At least "
        f"{shares.quorum} {party}s are in every sum; the figure counts the noise of {shares.honest} of them. What it "
        "is when more of them fail is in the table of section 1.",
    )
