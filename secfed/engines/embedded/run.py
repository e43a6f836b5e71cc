"""One whole run of a study in the embedded engine: check everything, reserve, run the rounds, write what came of it.

What a run's folder holds is in `secfed.reports.folder`; beside that, `out/sites/NAME/` is what each site remembers.

`prepare` reads and refuses; nothing is written before it has accepted everything. Then every site's ledger reserves the
whole study, before any training. From there on the run is the aggregator's own (`secfed.aggregator.aggregation`), over
a channel that calls the nodes: what is simulated here is what is deployed there, and it goes on after a crash likewise.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dp.ledger import Ledger
from secfed.aggregator.aggregation import Aggregation, Work
from secfed.aggregator.journal import is_begun
from secfed.aggregator.records import RoundRecord
from secfed.engines.embedded.channel import ENGINE, EmbeddedChannel, Simulation, load_simulation
from secfed.errors import UserError
from secfed.files.whole import alone_in, check_writable, whole_or_gone
from secfed.models.data import Record, columns, read_test_set, tokenise
from secfed.models.trainer import Trainer
from secfed.models.trainers import StudyModel, open_study_model, progress_steps, trainer_for
from secfed.node.books import planned_end
from secfed.node.node import Node
from secfed.node.parts import NodeParts
from secfed.node.privacy_plan import privacy_plan
from secfed.node.sites import LEDGER_FILE, STORE_FILE, Site, is_reserved, read_site, reserve_once
from secfed.node.store import NodeStore
from secfed.node.texts import check_texts, told
from secfed.reports import folder as run_folder
from secfed.rounds.deadlines import Deadlines
from secfed.rounds.events import LocalStep, Note, OwnerTold, Reporter
from secfed.rounds.run_facts import RunKind
from secfed.study import account
from secfed.study.approvals import SIGNATURES, StudyFile
from secfed.study.base import find_base
from secfed.study.manifest import Study
from secfed.study.text import in_columns

_WRITTEN = (
    run_folder.STUDY,
    run_folder.FIRST_STATE,
    run_folder.RECEIPTS,
    run_folder.SUMS,
    SIGNATURES,
    run_folder.ADAPTER,
    run_folder.LEDGERS,
    run_folder.REPORT,
    run_folder.REPORT_PAGE,
)
"""In a run's folder, beside the journal, the summary and what sites remember."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that has been checked and not yet begun."""

    file: StudyFile
    """The study, and the very bytes that were read: what is changed meanwhile is not run."""
    out: Path
    base: Path
    sites: tuple[Site, ...]
    test_set: Mapping[str, list[Record]]
    simulation: Simulation
    epsilon_by_round: tuple[float, ...]
    """Nominal epsilon after each round."""

    @property
    def study(self) -> Study:
        """What is run."""
        return self.file.study


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
    file = StudyFile.read(study_path)
    study = file.study
    check_writable(out)
    _check_out(file, out)
    folder = study_path.parent
    fields = columns(study)
    sites = tuple(
        read_site(study, entry.name, folder / "sites" / entry.name, out / "sites" / entry.name, fields)
        for entry in study.roster
    )
    test_set = read_test_set(folder / "test.jsonl", fields, study.task.labels)
    base = find_base(study, folder)
    simulation = load_simulation(folder / "simulation.toml", study)
    account.check_noise(study)
    return Plan(file, out, base, sites, test_set, simulation, account.epsilon_by_round(study))


def execute(plan: Plan, reporter: Reporter, confirmed: Callable[[], bool] = lambda: True) -> Result:
    """Show the privacy plan, and once it is confirmed run the study and write the run's folder.

    Whatever ends it after its first round was opened, the same study goes on in the same folder; whatever ends it
    before leaves nothing there.

    Args:
        plan: what `prepare` gave.
        reporter: is shown the plan, then the progress.
        confirmed: asked after the plan is shown; nothing is written or reserved before it says yes.

    Raises:
        UserError: no step of this model is private, it cannot read a site's records, the plan was not confirmed, or
            too few sites take part.
    """
    study = plan.study
    opened = open_study_model(study, plan.base)
    _show_plan(plan, opened, reporter)
    if not confirmed():
        raise UserError("the plan was not confirmed", "Nothing was started and nothing is spent")
    trainers = [trainer_for(study, index, opened, site.patients) for index, site in enumerate(plan.sites)]
    with alone_in(plan.out), _gone_unless_begun(plan), ExitStack() as stack:
        _check_out(plan.file, plan.out)  # another process may have had it since
        _lay_out(plan)
        nodes = _start_nodes(plan, trainers, stack, reporter)
        work = _work(plan, opened)
        channel = EmbeddedChannel(
            nodes,
            plan.simulation,
            lambda name, reason: reporter.show(Note(f"  {name} refuses (told to its owner only): {reason}")),
            work.file_digest,
        )
        aggregation = Aggregation(work, channel, reporter.show, pause=_nobody_else_comes)
        return Result(aggregation.run(ENGINE), aggregation.records)


def _work(plan: Plan, opened: StudyModel) -> Work:
    """The study for the aggregator. Whoever does not answer at once is not waited for: nobody is on the way."""
    return Work(
        study=plan.study,
        study_file=plan.file.data,
        opened=opened,
        test_set=tokenise(plan.test_set, opened.tokenizer, plan.study.model.max_length),
        epsilon_by_round=plan.epsilon_by_round,
        out=plan.out,
        deadlines=Deadlines(gathering_seconds=0.0, handover_seconds=0.0),
        left_out=frozenset,
    )


def _nobody_else_comes(_: float) -> None:
    """Instead of waiting: all sites are in this process, and have answered.

    Raises:
        UserError: always.
    """
    raise UserError("too few sites take part for a round", "Mend what they refused, see above, and run it again")


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


def _check_out(file: StudyFile, out: Path) -> None:
    """A folder holds one run. One of this very study that has not ended goes on.

    Raises:
        UserError: the folder holds another run, or one that has ended, or files that are no run's, or its sites have
            lost what they remember.
    """
    another = UserError(f"{out} holds another run already", "Give a new folder with --out")
    folders = [out / "sites" / entry.name for entry in file.study.roster]
    if (out / run_folder.SUMMARY).exists():
        if not any((folder / LEDGER_FILE).exists() for folder in folders):
            raise another
        raise UserError(
            f"{out} holds a run already, and its sites' privacy budget is spent on it",
            "Give a new folder with --out; to go on with these sites, grant a budget for a new study",
        )
    begun = is_begun(out)
    ours = (out / run_folder.STUDY).is_file() and (out / run_folder.STUDY).read_bytes() == file.data
    if not begun and not any((folder / STORE_FILE).exists() for folder in folders):
        _check_free(out, ours)
        return
    if not ours:
        raise another
    for folder in folders:  # every ledger has its reservation before any site has a store, and both before a round
        if not is_reserved(file.study, folder / LEDGER_FILE):
            raise _forgotten(folder / LEDGER_FILE, folder.name, "what this study has spent")
        if begun and not (folder / STORE_FILE).exists():
            raise _forgotten(folder / STORE_FILE, folder.name, "which rounds it has joined")


def _forgotten(path: Path, name: str, what: str) -> UserError:
    return UserError(
        f"{path} is gone, or knows nothing of this study, whose run began here: {name} would forget {what}",
        "Put the run's folder back from a copy; without one this run cannot go on",
    )


def _check_free(out: Path, ours: bool) -> None:
    """Where no round was opened nothing lies under the names of a run's files but what a crash before that has left.

    Args:
        out: the folder.
        ours: its study is the one that is to be run.

    Raises:
        UserError: somebody else's file would be written over, or taken for the run's.
    """
    for name in _WRITTEN:
        path = out / name
        left = ours and name in (run_folder.STUDY, run_folder.FIRST_STATE)
        if left or not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir())):
            continue
        raise UserError(
            f"{path} is there already, and is not of a run of this study that was cut short",
            "Give a new folder with --out; nothing was written",
        )


@contextmanager
def _gone_unless_begun(plan: Plan) -> Iterator[None]:
    """What this block puts into the run's folder goes again, if it ends early and no round was opened."""
    if is_begun(plan.out):
        yield
        return
    kept: BaseException | None = None
    with whole_or_gone(plan.out):
        try:
            yield
        except BaseException as error:
            if not is_begun(plan.out):
                raise
            kept = error
    if kept is not None:
        raise kept


def _lay_out(plan: Plan) -> None:
    for site in plan.sites:
        site.records.mkdir(parents=True, exist_ok=True, mode=0o700)


def _reserve(plan: Plan, ledgers: list[Ledger]) -> None:
    """Grant what each policy grants, and reserve the whole study at every site before any training, or at none.

    Where a run goes on, its sites hold their reservations already.
    """
    study, reserved = plan.study, []
    try:
        for site, ledger in zip(plan.sites, ledgers, strict=True):
            held = ledger.reservation(study.digest) is not None
            reserve_once(study, site, ledger)
            if not held:
                reserved.append(ledger)
    except BaseException:
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
