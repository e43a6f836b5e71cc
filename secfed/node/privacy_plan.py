"""The privacy plan: one screen, before anything runs, with the cost and who is protected against whom.

Every line comes from the signed study, the sites' policies and ledgers, or the loaded model. Nothing is reserved yet at
this point.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from secfed.files.figures import amount, rounded_up
from secfed.node.sites import LEDGER_FILE, Site
from secfed.rounds.run_facts import RunKind, against_in_short
from secfed.study.account import epsilon_to_spare, price
from secfed.study.algorithms import describe
from secfed.study.manifest import Study
from secfed.study.text import how_it_is_kept, in_columns


def privacy_plan(study: Study, sites: Sequence[Site], model: str, epsilon: float, kind: RunKind) -> str:
    """The screen, as plain text.

    Args:
        study: the study to run.
        sites: the sites, read and checked.
        model: one line on what is trained.
        epsilon: the study's figure of record.
        kind: how the study will run.
    """
    privacy = study.privacy
    tolerated = min(site.policy.rules(study).really_tolerated(len(study.roster)) for site in sites)
    lines = [
        ("model", model),
        ("moved by", f"{describe(study.algorithm)}, {study.algorithm.rounds} rounds"),
        (
            f"each {privacy.protects.value}",
            f"epsilon {rounded_up(epsilon, 2)} at delta {privacy.delta:g}, {against_in_short(study, kind)}",
        ),
        *how_it_is_kept(study, tolerated),
        *(("to spare", line) for line in [epsilon_to_spare(study, epsilon)] if line),
        *(("budget", line) for line in _budgets(study, sites, price(study, epsilon))),
    ]
    return "\n".join([f"privacy plan of {study.name}", *in_columns(lines)])


def _budgets(study: Study, sites: Sequence[Site], cost: Decimal) -> list[str]:
    """What each ledger will have left; sites with the same figures share a line."""
    groups: dict[str, list[str]] = {}
    for site in sites:
        granted, after = _balance(study, site, cost)
        groups.setdefault(f"epsilon {amount(after)} of {amount(granted)} will be left", []).append(site.name)
    if len(sites) == 1:
        return [f"{line} to {sites[0].policy.budget.population}" for line in groups]
    if len(groups) == 1:
        (line,) = groups
        return [f"{line} at every {study.party}"]
    return [f"{line} at {', '.join(names)}" for line, names in groups.items()]


def _balance(study: Study, site: Site, cost: Decimal) -> tuple[Decimal, Decimal]:
    """Epsilon granted to this site's population, and what remains of it once the study is reserved."""
    granted = Decimal(repr(site.policy.budget.epsilon))
    if not (site.records / LEDGER_FILE).exists():
        return granted, granted - cost
    with site.open_ledger() as ledger:
        balance = ledger.balance(site.policy.budget.population)
        if ledger.reservation(study.digest) is not None:
            return balance.granted_epsilon, balance.left_epsilon
    return (
        (balance.granted_epsilon, balance.left_epsilon - cost) if balance.granted_epsilon else (granted, granted - cost)
    )
