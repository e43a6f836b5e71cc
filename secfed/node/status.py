"""A node's status for its owner: data, budgets and studies, from its ledger, its approved studies, and its policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from dp.entries import EXACT, Entry, balance_of
from secfed.errors import UserError
from secfed.files.figures import scientific
from secfed.node.attempts import stopped_at
from secfed.node.home import Home
from secfed.node.policy import BudgetPolicy
from secfed.node.sites import LEDGER_FILE, STORE_FILE
from secfed.node.store import open_store


def node_status(home: Home) -> dict[str, Any]:
    """The status as JSON values; `status_text` makes it readable.

    Raises:
        LedgerCorrupt: the ledger's chain is broken.
    """
    entries: Sequence[Entry] = ()
    if (home.path / LEDGER_FILE).exists() or home.digests():
        with home.open_ledger() as ledger:
            entries = ledger.entries()
    policy = home.policy()
    granted = [entry.body["population"] for entry in entries if entry.kind == "grant"]
    populations = dict.fromkeys([*(budget.population for budget in policy.budget), *granted])
    return {
        "name": home.name,
        "home": str(home.path),
        "identity": home.identity.public.raw.hex(),
        "fingerprint": home.identity.public.fingerprint(),
        "data": [{"name": each.name, "file": each.file, "population": each.population} for each in home.node.data],
        "budgets": [_budget(entries, name, policy.budget_of(name)) for name in populations],
        "studies": [_study(home, entries, digest) for digest in home.digests()],
    }


def _budget(entries: Sequence[Entry], population: str, policy: BudgetPolicy | None) -> dict[str, Any]:
    """granted = reserved + spent + left. A study's whole budget counts as spent from its first commit on."""
    balance, begun = balance_of(entries, population), _begun(entries)
    spent = Decimal(0)
    for entry in entries:
        if entry.kind == "reserve" and entry.body["population"] == population and entry.body["study"] in begun:
            spent = EXACT.add(spent, Decimal(entry.body["epsilon"]))
    in_ledger = bool(balance.granted_epsilon)
    planned = Decimal(repr(policy.epsilon)) if policy is not None else Decimal(0)
    planned_delta = Decimal(repr(policy.delta)) if policy is not None else Decimal(0)
    return {
        "population": population,
        "granted": float(balance.granted_epsilon if in_ledger else planned),
        "reserved": float(EXACT.subtract(balance.reserved_epsilon, spent)),
        "spent": float(spent),
        "left": float(balance.left_epsilon if in_ledger else planned),
        "granted_delta": float(balance.granted_delta if in_ledger else planned_delta),
        "left_delta": float(balance.left_delta if in_ledger else planned_delta),
        "in_ledger": in_ledger,
    }


def _begun(entries: Sequence[Entry]) -> set[str]:
    return {entry.body["study"] for entry in entries if entry.kind == "commit"}


def _study(home: Home, entries: Sequence[Entry], digest: bytes) -> dict[str, Any]:
    name = digest.hex()
    try:
        kept = home.stored(digest)
    except UserError as error:
        return {"digest": name, "state": "not as approved", "problem": str(error)}
    own = [entry for entry in entries if entry.body.get("study") == name]
    return {
        "digest": name,
        "name": kept.study.name,
        "approved": kept.approval.approved,
        "data": kept.data,
        "epsilon": float(next((each.body["epsilon"] for each in own if each.kind == "reserve"), 0.0)),
        "rounds": kept.study.algorithm.rounds,
        "committed": sum(entry.kind == "commit" for entry in own),
        "released": sum(entry.kind == "release" for entry in own),
        "state": _state({entry.kind for entry in own}),
        **_remembered(home, digest),
    }


def _remembered(home: Home, digest: bytes) -> dict[str, Any]:
    """When the study was paused, whether the node stopped after repeated failed rounds, and the extra attempts that its
    owner allowed.
    """
    if not (home.path / STORE_FILE).exists():
        return {"paused": "", "stopped": False, "more_attempts": 0}
    try:
        with open_store(home.path / STORE_FILE) as store:
            stopped, more = stopped_at(store, digest) is not None, store.all_more_attempts(digest)
            return {"paused": store.paused(digest), "stopped": stopped, "more_attempts": more}
    except UserError:
        return {"paused": None, "stopped": None, "more_attempts": None}


def _state(kinds: set[str]) -> str:
    if "withdraw" in kinds:
        return "withdrawn"
    if "close" in kinds:
        return "closed"
    if "commit" in kinds:
        return "begun"
    return "reserved" if "reserve" in kinds else "approved"


def status_text(status: Mapping[str, Any]) -> str:
    """The status as text for people."""
    lines = [f"{status['name']} in {status['home']}", f"  fingerprint   {status['fingerprint']}"]
    for each in status["data"]:
        lines.append(f"  data          {each['name']}: {each['file']}, of {each['population']}")
    for each in status["budgets"]:
        planned = "" if each["in_ledger"] else " (set in the policy; granted with the first study)"
        amounts = ", ".join(f"{each[kind]:g} {kind}" for kind in ("granted", "reserved", "spent", "left"))
        delta = f"delta {scientific(each['left_delta'])} of {scientific(each['granted_delta'])} left"
        lines.append(f"  budget        {each['population']}: epsilon {amounts}; {delta}{planned}")
    lines += [_study_line(each) for each in status["studies"]] or ["  study         none approved"]
    return "\n".join(lines)


def _study_line(study: Mapping[str, Any]) -> str:
    if "problem" in study:
        return f"  study         {study['digest'][:16]}: {study['problem']}"
    return (
        f"  study         {study['name']} {study['digest'][:16]}, approved {study['approved'][:10]}, {study['state']}: "
        f"epsilon {study['epsilon']:g}, {study['committed']} of {study['rounds']} rounds committed, "
        f"{study['released']} with a receipt{_memory_words(study)}"
    )


def _memory_words(study: Mapping[str, Any]) -> str:
    if study["stopped"] is None:
        return f"; {STORE_FILE} cannot be read: run `secfed doctor`"
    paused = f"; PAUSED by its owner since {study['paused'][:10]}" if study["paused"] else ""
    allowed = f"; {study['more_attempts']} extra attempts allowed" if study["more_attempts"] else ""
    if not study["stopped"]:
        return allowed + paused
    return f"{allowed}{paused}; STOPPED after repeated failed rounds: see `secfed node allow-attempts --help`"
