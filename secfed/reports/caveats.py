"""What the report's guarantee does not cover, generated from the study and from how it ran."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secfed.reports.risk import Risk
from secfed.rounds.run_facts import RunKind
from secfed.study.manifest import Study


def not_protected(study: Study, risk: Risk, how: Mapping[str, Any]) -> list[dict[str, str]]:
    """A heading and a sentence each.

    Args:
        study: what was signed.
        risk: its figures.
        how: how it ran, as `secfed.rounds.run_facts.how_it_ran` gives it.
    """
    mechanism, party = study.mechanism, study.party
    rows = [
        *_who_ran_it(study, how),
        *mechanism.people_not_covered(risk),
        (
            f"The {party}'s own {mechanism.own_people} and machines",
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
        mechanism.who_takes_part,
        _durations(study, how),
        (
            "The quality of the model",
            f"A {party} that sends bad updates on purpose can spoil the model. Its updates are hidden from inspection. "
            f"{mechanism.most_moved(study.cohort_rules().fewest_survivors)}",
        ),
        ("Test figures", "Accuracy on the test set is computed outside the guarantee."),
        ("Withdrawal of consent", mechanism.withdrawal),
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
    return (
        "Duration and load",
        f"{study.mechanism.same_work}, but how long a machine takes may still depend on its load, and by a "
        "little on the numbers. Uploads can be held back to a fixed moment (pace.upload_after_seconds): by the nodes' "
        f"own signed words they were at {how['held_back']} of {len(study.roster)} {study.party}s.",
    )
