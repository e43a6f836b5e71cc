"""One whole run of a study in the embedded engine: check everything, reserve, run the rounds, write what came of it.

What a run's folder holds is in `secfed.reports.folder`; beside that, `out/sites/NAME/` is what each hospital remembers.

`prepare` reads and refuses; nothing is written before it has accepted everything. Then every hospital's ledger reserves
the whole study, before any training.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dp.errors import DPError
from dp.ledger import Ledger
from secfed.aggregator.coordinator import Coordinator, RoundRecord
from secfed.aggregator.handover import HospitalEnd
from secfed.aggregator.journal import Journal
from secfed.aggregator.results import save_adapter, write_first_state, write_results
from secfed.aggregator.summary import summarise
from secfed.engines.embedded.channel import ENGINE, EmbeddedChannel, Simulation, load_simulation
from secfed.errors import UserError
from secfed.files.whole import check_writable, whole_or_gone
from secfed.models.data import Record, columns, read_test_set, tokenise
from secfed.models.trainer import Trainer
from secfed.models.trainers import StudyModel, open_study_model, progress_steps, trainer_for
from secfed.node.books import hand_over, planned_end
from secfed.node.node import Node
from secfed.node.parts import NodeParts
from secfed.node.privacy_plan import privacy_plan
from secfed.node.sites import LEDGER_FILE, STORE_FILE, Site, read_site, reserve
from secfed.node.store import NodeStore
from secfed.node.texts import check_texts, told
from secfed.reports import folder as run_folder
from secfed.rounds.events import LocalStep, Note, OwnerTold, Reporter
from secfed.rounds.run_facts import RunKind
from secfed.study import account
from secfed.study.approvals import SIGNATURES, signatures_text, study_file_digest
from secfed.study.manifest import Study, load_study
from secfed.study.text import in_columns


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that has been checked and not yet begun."""

    study: Study
    study_path: Path
    out: Path
    base: Path
    sites: tuple[Site, ...]
    test_set: Mapping[str, list[Record]]
    simulation: Simulation
    epsilon_by_round: tuple[float, ...]
    """Nominal epsilon after each round."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to."""

    summary: Mapping[str, Any]
    records: tuple[RoundRecord, ...]


def prepare(study_path: Path, out: Path) -> Plan:
    """Read and check everything that a run needs. Writes nothing.

    Args:
        study_path: the study; beside it lie `sites/`, `test.jsonl`, and `simulation.toml` if dropouts are simulated.
        out: the run's folder.

    Raises:
        UserError, DPError: with what is wrong and the next step.
    """
    study = load_study(study_path)
    check_writable(out)
    from secfed.study.base import find_base  # loads torch

    folder = study_path.parent
    if (out / run_folder.SUMMARY).exists() or (out / run_folder.RECEIPTS).exists():
        _refuse_second_run(study, out)
    fields = columns(study)
    sites = tuple(
        read_site(study, entry.name, folder / "sites" / entry.name, out / "sites" / entry.name, fields)
        for entry in study.roster
    )
    test_set = read_test_set(folder / "test.jsonl", fields, study.task.labels)
    base = find_base(study, folder)
    simulation = load_simulation(folder / "simulation.toml", study)
    account.check_noise(study)
    return Plan(study, study_path, out, base, sites, test_set, simulation, account.epsilon_by_round(study))


def execute(plan: Plan, reporter: Reporter, confirmed: Callable[[], bool] = lambda: True) -> Result:
    """Show the privacy plan, and once it is confirmed run the study and write the run's folder.

    Args:
        plan: what `prepare` gave.
        reporter: is shown the plan, then the progress.
        confirmed: asked after the plan is shown; nothing is written or reserved before it says yes.

    Raises:
        UserError: no step of this model is private, it cannot read a site's records, or the plan was not confirmed.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    study = plan.study
    opened = open_study_model(study, plan.base)
    model, first = opened.model, opened.first
    _show_plan(plan, opened, reporter)
    if not confirmed():
        raise UserError("the plan was not confirmed", "Nothing was started and nothing is spent")
    test_set = tokenise(plan.test_set, opened.tokenizer, study.model.max_length)
    before = model.accuracy(test_set)
    trainers = [trainer_for(study, index, opened, site.patients) for index, site in enumerate(plan.sites)]
    _lay_out(plan)
    with ExitStack() as stack:
        nodes = _start_nodes(plan, trainers, stack, reporter)
        _write_agreement(plan, nodes)
        write_first_state(plan.out, model.layout, first)
        channel = EmbeddedChannel(
            nodes,
            plan.simulation,
            lambda name, reason: reporter.show(Note(f"  {name} refuses (told to its owner only): {reason}")),
        )
        coordinator = Coordinator(
            study,
            model.layout,
            first,
            channel,
            show=reporter.show,
            keep=Journal(plan.out).keep,
            epsilon_by_round=plan.epsilon_by_round,
        )
        records = tuple(coordinator.run())
        after = save_adapter(plan.out, study, model, coordinator.chain, test_set)
        hospitals = [_end_of(node) for node in nodes]
        summary = summarise(
            study,
            plan.out,
            records,
            hospitals,
            coordinator.chain,
            epsilon_by_round=plan.epsilon_by_round,
            accuracy=(before, after),
            times=(started, datetime.now(UTC), time.monotonic() - clock),
            engine=ENGINE,
        )
    write_results(plan.out, study, summary, hospitals)
    return Result(summary, records)


def _show_plan(plan: Plan, opened: StudyModel, reporter: Reporter) -> None:
    """What the guards mended, the privacy plan, and how well the model reads the sites' records.

    Raises:
        UserError: it reads a site's worse than the site's policy allows.
    """
    for mended in opened.verdict.mended:
        reporter.show(Note(f"the model: {mended}"))
    length = plan.study.model.max_length
    figures = {site.name: check_texts(site, opened.tokenizer, length) for site in plan.sites}
    shown = privacy_plan(plan.study, plan.sites, opened.model.describe(), plan.epsilon_by_round[-1], RunKind.SIMULATION)
    reporter.show(Note("\n".join([shown, *in_columns([("texts", told(figures))])])))


def _refuse_second_run(study: Study, out: Path) -> None:
    """A folder holds one run. If it was this study's, its ledgers say what is spent."""
    ledger_files = [out / "sites" / entry.name / LEDGER_FILE for entry in study.roster]
    if any(path.exists() for path in ledger_files):
        raise UserError(
            f"{out} holds a run already, and its hospitals' privacy budget is spent on it",
            "Give a new folder with --out; to go on with these hospitals, grant a budget for a new study",
        )
    raise UserError(f"{out} holds another run already", "Give a new folder with --out")


def _lay_out(plan: Plan) -> None:
    with whole_or_gone(plan.out):
        for folder in (run_folder.RECEIPTS, run_folder.SUMS, run_folder.LEDGERS):
            (plan.out / folder).mkdir(parents=True, exist_ok=True)
        for site in plan.sites:
            site.records.mkdir(parents=True, exist_ok=True, mode=0o700)
        target = plan.out / run_folder.STUDY
        if target.resolve() != plan.study_path.resolve():
            shutil.copyfile(plan.study_path, target)


def _reserve(plan: Plan, ledgers: list[Ledger]) -> None:
    """Grant what each policy grants, and reserve the whole study at every hospital, before any training: or at none."""
    study, reserved = plan.study, []
    try:
        for site, ledger in zip(plan.sites, ledgers, strict=True):
            reserve(study, site, ledger)
            reserved.append(ledger)
    except DPError:
        for ledger in reserved:
            ledger.withdraw(study.digest)
        raise


def _start_nodes(plan: Plan, trainers: list[Trainer], stack: ExitStack, reporter: Reporter) -> list[Node]:
    """Reserve the study in every ledger, and start the nodes. Ledgers and stores are closed with `stack`."""
    study = plan.study
    ledgers = [stack.enter_context(site.open_ledger()) for site in plan.sites]
    _reserve(plan, ledgers)
    nodes, expected = [], planned_end(study)
    for index, (site, ledger, trainer) in enumerate(zip(plan.sites, ledgers, trainers, strict=True)):
        steps = progress_steps(study, index)
        store = stack.enter_context(NodeStore(site.records / STORE_FILE))
        nodes.append(
            Node(
                study,
                NodeParts(site.name, site.identity, site.policy, ledger, store, trainer),
                on_step=lambda name, step, steps=steps: reporter.show(LocalStep(name, step, steps)),  # type: ignore[misc]
                tell_owner=lambda name, text: None if text == expected else reporter.show(OwnerTold(name, text)),
                clock=lambda: 0.0,  # sessions do not end by time: here nodes wait for one another's training
            )
        )
    return nodes


def _write_agreement(plan: Plan, nodes: list[Node]) -> None:
    """Who signed the study."""
    study_file = (plan.out / run_folder.STUDY).read_bytes()
    approvals = [node.approve(study_file_digest(study_file)) for node in nodes]
    (plan.out / SIGNATURES).write_text(signatures_text(plan.study, study_file, approvals))


def _end_of(node: Node) -> HospitalEnd:
    """Where a node of this process stands. Raises UserError where the study is not closed at it."""
    copy = hand_over(node)
    if copy is None:
        raise UserError(
            f"{node.parts.name} has not closed the study, so that its ledger says nothing of how it ended",
            "See above what it refused",
        )
    return HospitalEnd(node.index, copy)
