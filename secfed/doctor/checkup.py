"""A check-up of a node or an aggregator: checks everything that a round needs; each problem comes with its fix.

It changes nothing. What it finds in the data appears only on the node's own screen, for its owner, and is sent nowhere.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

from dp.bookkeeping import first_fault
from dp.entries import Entry, hour_from
from dp.errors import AnotherFormat
from secfed.aggregator.home import AggregatorHome
from secfed.doctor.machine import Machine, check_clock, check_machine
from secfed.doctor.run_findings import examine_runs, file_times, unsigned
from secfed.engines.flare.kit_check import examine_kit, remembered, warn_of_end
from secfed.engines.flare.tls import Server, greet
from secfed.errors import UserError
from secfed.findings import Finding, NotChecked, Warned, look
from secfed.models.data import Columns, survey
from secfed.node.home import KEY, MODELS, NODE, POLICY, STUDIES, Approved, Home
from secfed.node.keys import read_identity
from secfed.node.pace import warning
from secfed.node.pause import paused_since
from secfed.node.policy import PolicyFile, load_policy_file
from secfed.node.settings import Dataset, read_node_file
from secfed.node.sites import LEDGER_FILE, STORE_FILE, reserve_once
from secfed.node.store import open_store
from secfed.study.approvals import SIGNATURES
from secfed.study.manifest import Study, load_study
from secfed.study.signing import entry_check

_SEE_LEDGER = "Check the ledger. If the budget in policy.toml was changed, restore the granted values"
_NOTHING_YET = "no ledger yet; approving the first study makes it"


def examine_node(
    path: Path, server: Server | None, machine: Machine | None = None, kit: Path | None = None
) -> tuple[Finding, ...]:
    """Check a node's home.

    Args:
        path: the home.
        server: the server to try to connect to, if any.
        machine: the machine that it runs on.
        kit: the start-up kit; by default the one used last.
    """
    machine = machine or Machine()
    findings = [*check_machine(machine, path), look("home folder", lambda: _folder(path, private=True))]
    key = look("identity key", lambda: f"fingerprint {read_identity(path / KEY).public.fingerprint()}")
    node = look("node.toml", lambda: f"this is {read_node_file(path / NODE).name}")
    policy = look("policy", lambda: _told_policy(load_policy_file(path / POLICY, path.name)))
    findings += [key, node, policy]
    own: list[tuple[str, datetime]] = []
    if all(each.state == "ok" for each in (key, node, policy)):
        home = Home(path, read_identity(path / KEY), read_node_file(path / NODE))
        findings += _inside(home, own)
    name = read_node_file(path / NODE).name if node.state == "ok" else None
    findings += examine_kit(kit or remembered(path), "site", name, machine.now())
    tls, time = _server(server, machine.now())
    return (*findings, tls, check_clock(machine, time, own))


def examine_aggregator(
    path: Path, server: Server | None, machine: Machine | None = None, kit: Path | None = None
) -> tuple[Finding, ...]:
    """Check an aggregator's folder: `studies/<digest>/study.toml`, the base models that these name, and the kit.

    Args:
        path, server, machine, kit: as for `examine_node`.
    """
    machine = machine or Machine()
    findings = [*check_machine(machine, path), look("folder", lambda: _folder(path, private=False))]
    folders = sorted(each for each in (path / STUDIES).glob("*") if each.is_dir()) if path.is_dir() else []
    for folder in folders:
        findings.append(look(f"study {folder.name[:16]}", partial(_studied, folder)))
        findings.append(look(f"base of {folder.name[:16]}", partial(_based, folder, path / MODELS)))
    if not folders:
        findings.append(Finding("studies", "not checked", "no study yet"))
    findings += examine_runs(path)
    findings += examine_kit(kit or remembered(path), "server", None, machine.now(), server.host if server else None)
    tls, time = _server(server, machine.now())
    return (*findings, tls, check_clock(machine, time, file_times(path)))


def _folder(path: Path, private: bool) -> str:
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror})",
            "Name the right folder, or set up a node with `secfed node init`",
        ) from error
    mode = stat.S_IMODE(status.st_mode)
    verb, forbidden = ("use", 0o077) if private else ("write", 0o022)
    if status.st_uid != os.geteuid():
        raise UserError(f"{path} belongs to another user", "Run this as the user that the service runs as")
    if mode & forbidden:
        raise UserError(
            f"users other than its owner can {verb} {path} (mode {mode:04o})",
            f"Run `chmod {'700' if private else 'go-w'} {path}`",
        )
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"{path} cannot be written", f"Run `chmod u+rwx {path}`")
    return f"only its owner can {verb} {path}"


def _told_policy(policy: PolicyFile) -> str:
    populations = ", ".join(budget.population for budget in policy.budget) or "no population yet"
    return f"base models allowed: {len(policy.allow.base_models)}; budgets for {populations}"


def _inside(home: Home, own: list[tuple[str, datetime]]) -> list[Finding]:
    """Checks that need key, name and policy. Adds the last written entry to `own`."""
    findings = [look(f"data {each.name}", partial(_data, each)) for each in home.node.data]
    if not home.node.data:
        findings.append(Finding("data", "not checked", "no data file is registered yet", "`secfed node data add FILE`"))
    entries: list[Entry] = []
    findings.append(
        look("ledger", lambda: _ledger(home, entries), "Stop the node and restore the ledger's newest copy")
    )
    findings.append(look("pace", lambda: _pace(home)))
    findings.append(look("store", lambda: _store(home, entries)))
    own += [("the ledger's last entry", hour_from(entry.time)) for entry in entries[-1:]]
    kept: list[Approved] = []
    for digest in home.digests():
        findings.append(look(f"study {digest.hex()[:16]}", partial(_study, home, digest, kept), _SEE_LEDGER))
    for each in kept:
        own.append((f"the approval of {each.study.name}", datetime.fromisoformat(each.approval.approved)))
        findings.append(look(f"base of {each.study.name}", partial(_base, each.study, home.path / MODELS)))
    if entries:
        findings.append(look("budget", lambda: _budget(home)))
    return findings


def _data(dataset: Dataset) -> str:
    column = dataset.patient_column  # other fields depend on the study
    seen = survey(Path(dataset.file), Columns(column, column, column), dataset.encoding)
    return f"{seen.patients} patients with {seen.records} records"


def _pace(home: Home) -> str:
    seconds = home.policy().pace.upload_after_seconds
    problem = warning(home.path, seconds)
    if problem is not None:
        raise Warned(*problem)
    return f"uploads are held back until {seconds:g} s after the round's request"


def _ledger(home: Home, into: list[Entry]) -> str:
    if not (home.path / LEDGER_FILE).exists():
        if home.digests():
            raise UserError(
                f"the ledger of {home.name} is missing, although studies were approved here",
                "Stop the node and restore the newest copy: only the ledger records what was spent",
            )
        return _NOTHING_YET
    try:
        opened = home.open_ledger()
    except AnotherFormat as error:
        raise UserError(error.what, error.step) from error
    with opened as ledger:
        ledger.verify(entry_check(home.identity.public))
        into += ledger.entries()
    fault = first_fault(into, whole=True)
    if fault is not None:
        raise UserError(
            f"entry {fault[0].sequence} of the ledger {fault[1]}, although this node's own key signed it",
            "Stop the node, keep the file as evidence, and find out who can use this node's key",
        )
    return f"{len(into)} entries in one chain, each valid and signed by this node"


def _store(home: Home, entries: Sequence[Entry]) -> str:
    path = home.path / STORE_FILE
    committed: dict[str, int] = {}
    for entry in entries:
        if entry.kind == "commit":
            committed[entry.body["study"]] = max(committed.get(entry.body["study"], 0), entry.body["round"])
    if not path.exists():
        if committed:
            raise UserError(
                f"{path} is missing, although rounds were committed",
                "Restore its newest copy and record that with `secfed node restored`",
            )
        return "no store yet; running the first study makes it"
    with open_store(path) as store:
        store.check()
        behind = [name for name, number in committed.items() if store.floor(bytes.fromhex(name)) < number]
    if behind:
        raise UserError(
            f"{path} is older than the ledger: it lacks committed rounds of study {behind[0][:16]}",
            "Ask the other sites for the highest round R that they have seen. Then run `secfed node restored "
            f"{behind[0][:16]} --highest-round R`",
        )
    return "readable, and not older than the ledger"


def _study(home: Home, digest: bytes, kept: list[Approved]) -> str:
    """Check that the approval is valid, policy and data still fit, and the reservation covers all that the study can
    spend.
    """
    stored = home.stored(digest)
    kept.append(stored)
    site, _ = home.approved_site(stored)
    if not (home.path / LEDGER_FILE).exists():
        raise NotChecked("there is no ledger to compare the study with")
    with home.open_ledger() as ledger:
        if ledger.reservation(digest) is None:
            raise UserError(
                f"{stored.study.name} is approved, but no budget is reserved for it, or it was withdrawn",
                "Approve it again. A withdrawn study cannot come back",
            )
        reserve_once(stored.study, site, ledger)  # already reserved: this only checks that the policy still agrees
    since = paused_since(home, digest)
    if since:
        raise Warned(
            f"{stored.study.name}: approved, but paused by its owner since {since}: the node takes no part in it",
            f"To take part again, run `secfed node resume {digest.hex()[:16]}`",
        )
    return f"{stored.study.name}: approved, allowed by the policy, and its data file is unchanged"


def _base(study: Study, models: Path) -> str:
    from secfed.study.base import find_base_among  # loads torch

    return f"{find_base_among(study, models)} has the digest that the study pins"


def _budget(home: Home) -> str:
    """Whether budget is left, or studies already paid for still have rounds to run."""
    from secfed.node.status import node_status

    status = node_status(home)
    done = all(each.get("committed") == each.get("rounds") for each in status["studies"])
    spent = [
        each["population"]
        for each in status["budgets"]
        if each["in_ledger"] and 0 in (each["left"], each["left_delta"])
    ]
    if spent and done:
        raise UserError(
            f"the budget of {spent[0]} is spent, and every study that it paid for is over",
            "No further study can train on these patients; spent budget does not come back",
        )
    return ", ".join(
        f"epsilon {each['left']:g} of {each['granted']:g} left to {each['population']}" for each in status["budgets"]
    )


def _server(server: Server | None, now: datetime) -> tuple[Finding, datetime | None]:
    if server is None:
        return Finding("server", "not checked", "no server given", "Give --server HOST:PORT and --ca FILE"), None
    times: list[datetime | None] = [None]

    def connect() -> str:
        answer = greet(server)
        times[0] = answer.time
        warn_of_end(f"the certificate of {server.host}", answer.until, now)
        return answer.text

    return look("server", connect), times[0]


def _studied(folder: Path) -> str:
    study = load_study(folder / "study.toml")
    if study.digest.hex() != folder.name:
        raise UserError(
            f"the study in {folder} has another digest than its folder's name: {study.digest.hex()}",
            "Put it into a folder named by the digest that the sites signed",
        )
    if (folder / SIGNATURES).exists():
        from secfed.verify.approval import check_approval
        from secfed.verify.evidence import Broken

        try:
            check_approval(folder)
        except Broken as problem:
            raise UserError(
                f"{folder}: {problem}", "Collect the sites' approvals again with `secfed study sign`"
            ) from problem
        return f"{study.name}, signed by all {len(study.roster)} sites"
    return unsigned(AggregatorHome(folder.parent.parent), study.digest, study.name)


def _based(folder: Path, models: Path) -> str:
    return _base(load_study(folder / "study.toml"), models)
