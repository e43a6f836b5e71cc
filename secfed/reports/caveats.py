"""What the report's guarantee does not cover, generated from the study and from how it ran."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secfed.reports.risk import Risk
from secfed.rounds.run_facts import RunKind
from secfed.study.manifest import Study


def not_protected(study: Study, risk: Risk, how: Mapping[str, Any]) -> list[dict[str, str]]:
    """One heading and one sentence for each limit of the guarantee.

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
            f"A {party} that sends bad updates on purpose can spoil the model. Nobody can inspect its updates. "
            f"{mechanism.most_moved(study.cohort_rules().fewest_survivors)}",
        ),
        ("Test figures", "Accuracy on the test set is computed outside the guarantee."),
        ("Withdrawal of consent", mechanism.withdrawal),
    ]
    return [{"what": what, "why": why} for what, why in rows]


def _who_ran_it(study: Study, how: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Who ran several parties at once, from what the nodes signed."""
    party = study.party
    if how["kind"] == RunKind.SIMULATION:
        reason = f"This run was a simulation: one process held every {party}'s records, keys and noise."
        return [("Anything, from whoever ran this process", reason)]
    return [
        (
            "Anything, from whoever ran one machine",
            f"It ran {f'all {party}s' if how['kind'] == RunKind.DEMONSTRATION else ', '.join(names)}; they signed "
            "this. Nothing is claimed against whoever ran that machine.",
        )
        for names in how["on_one_machine"]
    ]


def _durations(study: Study, how: Mapping[str, Any]) -> tuple[str, str]:
    return (
        "Duration and load",
        f"{study.mechanism.same_work}, but how long a machine takes may still depend on its load and slightly on the "
        "numbers. Uploads can be held back to a fixed moment (pace.upload_after_seconds). The nodes signed that they "
        f"were held back at {how['held_back']} of {len(study.roster)} {study.party}s.",
    )
