"""One site as a study needs it: its identity key, policy and patients, and the folder of its ledger and store.

For a run in one process:

    <study's folder>/sites/<name>/      what the site brings: identity.key, policy.toml, patients.jsonl
    <run's folder>/sites/<name>/        what it remembers: ledger.sqlite, node.sqlite

A node on its own machine has a home instead (`secfed.node.home`). `read_site` and `check_site` only check; they write
nothing, so bad input leaves no trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crypto.identity import Identity
from dp.entries import epsilon_amount
from dp.ledger import Ledger, refusal
from secfed.errors import UserError
from secfed.models.data import Encoding, read_patients
from secfed.models.tasks import kind_of
from secfed.node.keys import read_identity
from secfed.node.policy import Policy, load_policy
from secfed.study.account import check_noise, least_price, price
from secfed.study.manifest import Study
from secfed.study.signing import entry_signer

LEDGER_FILE = "ledger.sqlite"
STORE_FILE = "node.sqlite"


@dataclass(frozen=True, slots=True)
class Site:
    """What one site brings, read and checked."""

    name: str
    identity: Identity
    policy: Policy
    patients: Mapping[str, list[Any]]
    """Its records by patient, as the study's kind of task has them (`secfed.models.tasks`)."""
    records: Path
    """The folder of its ledger and store; it may not exist yet."""

    def open_ledger(self) -> Ledger:
        """This site's ledger, made on first use."""
        return Ledger(self.records / LEDGER_FILE, entry_signer(self.identity))


def read_site(study: Study, name: str, source: Path, records: Path) -> Site:
    """Read one site's folder and check it against the study. Writes nothing.

    Args:
        study: the study to take part in.
        name: the site's name on the roster.
        source: the folder with key, policy and data.
        records: the folder for ledger and store.

    Raises:
        UserError: something is missing or does not fit the study, or the budget is too small.
    """
    if not source.is_dir():
        raise UserError(
            f"the folder of {name} is missing: {source}",
            "Every site on the roster needs a folder with identity.key, policy.toml and patients.jsonl",
        )
    identity = read_identity(source / "identity.key")
    if identity.public.raw.hex() != study.roster[study.index_of(name)].identity:
        raise UserError(
            f"the identity key of {name} is not the key on the study's roster",
            "Use the enrolled key, or have a new study with this key signed",
        )
    policy = load_policy(source / "policy.toml", name)
    site = check_site(study, name, identity, policy, source / "patients.jsonl", records)
    if not is_reserved(study, site.records / LEDGER_FILE):
        check_budget(study, site)
    return site


def check_site(
    study: Study,
    name: str,
    identity: Identity,
    policy: Policy,
    data: Path,
    records: Path,
    encoding: Encoding = "utf-8",
) -> Site:
    """Check policy and data against the study. Does not check the budget.

    Args:
        study, name, records: as for `read_site`.
        identity: the key that the roster lists for this name.
        policy: of the population whose records these are.
        data: the data file.
        encoding: the encoding of a text file.

    Raises:
        UserError: the policy does not allow the study, or the data does not fit it.
    """
    policy.check(study, name)
    patients = read_patients(data, kind_of(study), name, encoding=encoding)
    study.mechanism.check_size(name, patients)
    return Site(name, identity, policy, patients, records)


def reserve(study: Study, site: Site, ledger: Ledger) -> None:
    """Record the policy's grant in the ledger, and reserve the most that the whole study can spend.

    Raises:
        UserError: the study's noise does not keep its promise; nothing is reserved.
        DPError: the ledger refuses; nothing is reserved.
    """
    budget, cost = site.policy.budget, price(study, check_noise(study))
    ledger.grant(budget.grant)
    ledger.reserve(budget.population, study.digest, cost, study.privacy.delta, study.algorithm.rounds)


def reserve_once(study: Study, site: Site, ledger: Ledger) -> None:
    """Like `reserve`; if the study already holds its reservation, check instead that the policy still grants it.

    Raises:
        UserError: the reservation is for a population other than the current data's, or for less than the study can
            spend.
        DPError: the ledger refuses.
    """
    held, budget = ledger.reservation(study.digest), site.policy.budget
    if held is None:
        reserve(study, site, ledger)
        return
    ledger.grant(budget.grant)
    if held.body["population"] != budget.population:
        raise UserError(
            f"this study's budget is reserved for {held.body['population']}, but its data file belongs to "
            f"{budget.population}",
            "Restore the data file that the study was approved with",
        )
    reserved, least = epsilon_amount(held.body["epsilon"]), least_price(study, check_noise(study))
    if reserved < least:
        raise UserError(
            f"epsilon {reserved} is reserved for this study, but this version's accountant says that it can spend "
            f"{least}",
            "Continue with the version that the study was approved with, or have a new study signed",
        )


def is_reserved(study: Study, ledger_file: Path) -> bool:
    """Whether a ledger holds a reservation for the study. Writes nothing, and makes no ledger.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    if not ledger_file.exists():
        return False
    with Ledger(ledger_file, lambda _: b"") as ledger:
        return ledger.reservation(study.digest) is not None


def check_budget(study: Study, site: Site) -> None:
    """Refuse a study that the budget cannot pay for, or that was reserved before. Writes nothing.

    Raises:
        UserError: the ledger refuses, for the reason in the text, or the study's noise does not keep its promise.
    """
    grant, cost, delta = site.policy.budget.grant, price(study, check_noise(study)), study.privacy.delta
    if (site.records / LEDGER_FILE).exists():
        with site.open_ledger() as ledger:
            problem = ledger.refusal(grant, study.digest, cost, delta)
    else:
        problem = refusal((), grant, study.digest, cost, delta)
    if problem is not None:
        raise UserError(
            f"the privacy budget of {site.name} does not pay for this study: {problem}",
            "Nothing was spent. Start a smaller study, or ask the site's owner to check budget in policy.toml",
        )
