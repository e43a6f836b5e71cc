"""What the report's guarantee does not cover, generated from the study and from how it ran."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secfed.files.figures import over, rounded_up
from secfed.reports import node_caveats
from secfed.reports.risk import Risk
from secfed.rounds.run_facts import RunKind
from secfed.study.manifest import Study
from secfed.study.privacy import LocalPrivacy


def not_protected(study: Study, risk: Risk, how: Mapping[str, Any]) -> list[dict[str, str]]:
    """A heading and a sentence each.

    Args:
        study: what was signed.
        risk: its figures.
        how: how it ran, as `secfed.rounds.run_facts.how_it_ran` gives it.
    """
    nodes, party = node_caveats.protects_nodes(study), study.party
    people = "people" if nodes else "staff"
    rows = [
        *_who_ran_it(study, how),
        *(node_caveats.not_protected_people(risk) if nodes else _not_protected_patients(risk)),
        (
            f"The {party}'s own {people} and machines",
            f"Records, identity key and ledger are protected at each {party} by its own means, not by this guarantee.",
        ),
        (
            "What the base model knew before",
            f"Texts that “{study.model.base}” remembers from its own training, and its tokeniser, are outside this "
            "account.",
        ),
        (
            "Work outside this software",
            "Preprocessing, the choice of labels, and tuning runs made elsewhere are not in this ledger.",
        ),
        node_caveats.who_takes_part()
        if nodes
        else (
            "Who takes part, and when",
            "The hospitals' names, their nominal numbers of patients and their attendance are known to all parties.",
        ),
        _durations(study, how),
        (
            "The quality of the model",
            f"A {party} that sends bad updates on purpose can spoil the model. Its updates are hidden from inspection. "
            f"{_most(study)}",
        ),
        ("Test figures", "Accuracy on the test set is computed outside the guarantee."),
        (
            "Withdrawal of consent",
            "Whoever runs the node has to end it, or to take data out of its file, which takes effect when the node "
            "next starts the job. What was trained, spent and published stays."
            if nodes
            else "The hospital has to take the patient out of the file, and to stand by the file that has changed; it "
            "takes effect when the node next starts the job. What was trained, spent and published stays.",
        ),
    ]
    return [{"what": what, "why": why} for what, why in rows]


def _who_ran_it(study: Study, how: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Whoever held several parties' keys, by the nodes' own signed words."""
    party = study.party
    if how["kind"] == RunKind.SIMULATION:
        reason = f"This run was a simulation: one process held every {party}'s records, keys and noise."
        return [("Anything, from whoever ran this process", reason)]
    return [
        (
            "Anything, from whoever ran one machine",
            f"It ran {f'all {party}s' if how['kind'] == RunKind.DEMONSTRATION else ', '.join(names)}, as they have "
            "signed: nothing is claimed against whoever ran that machine.",
        )
        for names in how["on_one_machine"]
    ]


def _durations(study: Study, how: Mapping[str, Any]) -> tuple[str, str]:
    work, whoever = "Choosing records, batches and clipping are", "whoever is drawn"
    if node_caveats.protects_nodes(study):
        work, whoever = "Local training is", "at every node"
    return (
        "Duration and load",
        f"{work} the same work {whoever}, but how long a machine takes may still depend on its load, and by a "
        "little on the numbers. Uploads can be held back to a fixed moment (pace.upload_after_seconds): by the nodes' "
        f"own signed words they were at {how['held_back']} of {len(study.roster)} {study.party}s.",
    )


def _not_protected_patients(risk: Risk) -> list[tuple[str, str]]:
    return [
        (
            "Findings about patients in general",
            "What the model learns about a population applies to everyone in it, whether they took part or not.",
        ),
        (
            "Other people named in the records",
            "A record is protected for the patient under whose id it is filed. A relative or a doctor who is mentioned "
            "in many records is not protected by it.",
        ),
        (
            "Patients known to several hospitals, or under several ids",
            f"Their epsilon is higher: {rounded_up(risk.epsilon_at_hospitals[1][1], 2)} with records at two hospitals, "
            f"{rounded_up(risk.epsilon_at_hospitals[2][1], 2)} at three.",
        ),
    ]


def _most(study: Study) -> str:
    """How far one party can move a sum: to the bound that every node checks of it, which the number of survivors
    times the largest honest input gives. A cheat's own vector is checked by nobody."""
    party, unit = study.party, study.privacy.protects.value
    parties = study.cohort_rules().fewest_survivors
    if isinstance(study.privacy, LocalPrivacy):
        return (
            f"One {party} can move every number by up to {parties} times what the update of the largest honest one may "
            "do: no limit in practice."
        )
    times = over(parties * study.magnitude // study.privacy.grid)
    return f"One {party} can move every number by over {times} times a {unit}'s limit: no limit in practice."
