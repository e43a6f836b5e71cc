"""One hospital as a study needs it: its identity key, its policy, its patients; and where its ledger and memory lie.

For a run in one process:

    <study's folder>/sites/<name>/      what the hospital brings: identity.key, policy.toml, patients.jsonl
    <run's folder>/sites/<name>/        what it remembers: ledger.sqlite, node.sqlite

A node of its own has a home instead (`secfed.node.home`). `read_site` and `check_site` look and refuse; they write
nothing, so that bad input leaves no trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from crypto.identity import Identity
from dp.entries import epsilon_amount
from dp.ledger import Ledger, refusal
from secfed.errors import UserError
from secfed.models.data import Columns, Encoding, Record, read_patients
from secfed.node.keys import read_identity
from secfed.node.policy import Policy, load_policy
from secfed.study.account import check_noise, least_price, price
from secfed.study.manifest import Study
from secfed.study.signing import entry_signer

LEDGER_FILE = "ledger.sqlite"
STORE_FILE = "node.sqlite"


@dataclass(frozen=True, slots=True)
class Site:
    """What one hospital brings, read and checked."""

    name: str
    identity: Identity
    policy: Policy
    patients: Mapping[str, list[Record]]
    records: Path
    """The folder of its ledger and memory; it may not exist yet."""

    def open_ledger(self) -> Ledger:
        """This hospital's ledger, made on first use."""
        return Ledger(self.records / LEDGER_FILE, entry_signer(self.identity))


def read_site(study: Study, name: str, source: Path, records: Path, columns: Columns) -> Site:
    """Read one hospital's folder and check it against the study, without writing anything.

    Args:
        study: the study that it is to take part in.
        name: its name in the roster.
        source: the folder with key, policy and data.
        records: the folder for ledger and memory.
        columns: the fields of a record.

    Raises:
        UserError: something is missing, does not fit the study, or its budget does not pay for the study.
    """
    if not source.is_dir():
        raise UserError(
            f"the folder of {name} is missing: {source}",
            "Every node of the roster needs one, with identity.key, policy.toml and patients.jsonl",
        )
    identity = read_identity(source / "identity.key")
    if identity.public.raw.hex() != study.roster[study.index_of(name)].identity:
        raise UserError(
            f"the identity key of {name} is not the one that the study's roster pins",
            "Use the enrolled key, or have a new study with this one signed",
        )
    policy = load_policy(source / "policy.toml", name)
    site = check_site(study, name, identity, policy, source / "patients.jsonl", records, columns)
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
    columns: Columns,
    encoding: Encoding = "utf-8",
) -> Site:
    """Check policy and data against the study; the budget is a question of its own.

    Args:
        study, name, records, columns: as `read_site`.
        identity: the key that the roster pins for this name.
        policy: of the population whose records these are.
        data: its records.
        encoding: of that file.

    Raises:
        UserError: the policy does not allow the study, or the data is not what it describes.
    """
    policy.check(study, name)
    patients = read_patients(data, columns, study.task.labels, name, encoding=encoding)
    study.mechanism.check_size(name, patients)
    return Site(name, identity, policy, patients, records)


def reserve(study: Study, site: Site, ledger: Ledger) -> None:
    """Grant what the policy grants, and reserve the whole study, at what it can spend.

    Raises:
        UserError: the study's noise does not keep what it promises; nothing is reserved.
        DPError: the ledger refuses; nothing is reserved.
    """
    budget, cost = site.policy.budget, price(study, check_noise(study))
    ledger.grant(budget.grant)
    ledger.reserve(budget.population, study.digest, cost, study.privacy.delta, study.algorithm.rounds)


def reserve_once(study: Study, site: Site, ledger: Ledger) -> None:
    """As `reserve`; where the study holds its reservation already, that it is what the policy still grants.

    Raises:
        UserError: the study was reserved for other patients than those it would be trained on now, or at less than it
            can spend.
        DPError: the ledger refuses.
    """
    held, budget = ledger.reservation(study.digest), site.policy.budget
    if held is None:
        reserve(study, site, ledger)
        return
    ledger.grant(budget.grant)
    if held.body["population"] != budget.population:
        raise UserError(
            f"this study's budget is reserved for {held.body['population']}, and its data are of {budget.population}",
            "Put the data back that the study was approved with",
        )
    reserved, least = epsilon_amount(held.body["epsilon"]), least_price(study, check_noise(study))
    if reserved < least:
        raise UserError(
            f"epsilon {reserved} is reserved for this study, and by this version's account it can spend {least}",
            "Go on with the version that it was approved with, or have a new study signed",
        )


def is_reserved(study: Study, ledger_file: Path) -> bool:
    """Whether a ledger holds a reservation for the study. Makes no ledger, and writes nothing.

    Raises:
        LedgerError: it cannot be read.
    """
    if not ledger_file.exists():
        return False
    with Ledger(ledger_file, lambda _: b"") as ledger:
        return ledger.reservation(study.digest) is not None


def check_budget(study: Study, site: Site) -> None:
    """Refuse a study that the budget does not pay for, or that was reserved before. Writes nothing.

    Raises:
        UserError: with what the ledger says, or that the study's noise does not keep what it promises.
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
            "Nothing was spent. Start a smaller study, or have the site's owner look at budget in its policy.toml",
        )
