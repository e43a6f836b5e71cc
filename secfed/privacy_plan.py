"""The privacy plan: one screen that says, before anything runs, what it will cost and whom it protects.

Every line comes from the signed study, the sites' policies and ledgers, or the loaded model. Nothing is reserved yet
when it is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from dp.events import Unit
from secfed.adaptive_clip import describe as describe_adaptive
from secfed.files.figures import amount, rounded_up
from secfed.run_facts import RunKind
from secfed.sites import LEDGER_FILE, Site
from secfed.study.account import against_in_short, epsilon_to_spare, price
from secfed.study.algorithms import describe
from secfed.study.manifest import Study
from secfed.study.privacy import DistributedPrivacy

_NAME_WIDTH = 14


def privacy_plan(study: Study, sites: Sequence[Site], model: str, epsilon: float, kind: RunKind) -> str:
    """The screen, as plain text.

    Args:
        study: what is to run.
        sites: the hospitals, read and checked.
        model: what is trained, in a line.
        epsilon: the study's figure of record.
        kind: how it is to run.
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


def how_it_is_kept(study: Study, tolerated: int) -> list[tuple[str, str]]:
    """Noise, sampling and cohort, as lines of a screen.

    Args:
        study: gives the figures.
        tolerated: how many hospitals may drop out of a round.
    """
    size = len(study.roster)
    return [
        ("noise", _noise(study)),
        _work(study),
        (
            "cohort",
            f"{size} {study.party}s, quorum {study.cohort_rules().quorum(size)}, up to {tolerated} may drop out, "
            f"{study.cohort.colluders} may collude",
        ),
    ]


def in_columns(lines: Sequence[tuple[str, str]]) -> list[str]:
    """Lines of a screen: a name, and what is said of it."""
    return [f"  {name:<{_NAME_WIDTH}}{text}" for name, text in lines]


def _noise(study: Study) -> str:
    privacy = study.privacy
    if not isinstance(privacy, DistributedPrivacy):
        return f"sigma = {privacy.noise_multiplier:g} C in every local step of every hospital"
    shares = study.noise_shares
    return (
        f"sigma = {privacy.noise_multiplier:g} C nominal: every {study.party} adds "
        f"{shares.share(privacy.noise_multiplier):.3g} C, and {shares.honest} of at least {shares.quorum} are counted"
    )


def _work(study: Study) -> tuple[str, str]:
    """What a round is made of, and how it is bounded."""
    privacy = study.privacy
    if privacy.protects is not Unit.NODE:
        sampled = f"q = {privacy.sampling_rate:g} in each of T = {study.steps} private steps"
        return "sampling", f"{sampled}, {_clip(study)}"
    plan = study.node_plan()
    local = f"{plan.steps} plain local steps of {plan.physical_batch} records by {plan.optimizer}"
    return "a node's part", f"{local} in each of T = {study.steps} rounds, nobody is drawn, {_clip(study)}"


def _clip(study: Study) -> str:
    privacy = study.privacy
    fixed = f"clip C = {privacy.clip:g}"
    if not isinstance(privacy, DistributedPrivacy) or privacy.adaptive_clip is None:
        return fixed
    what = "update" if privacy.protects is Unit.NODE else "gradient"
    return f"{fixed} at first; it {describe_adaptive(privacy.adaptive_clip, what)}"


def _budgets(study: Study, sites: Sequence[Site], cost: Decimal) -> list[str]:
    """What each ledger will have left; hospitals with the same figures on one line."""
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
    """Epsilon granted to this site's population, and what is left of it once the study is reserved."""
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
