"""One whole run of a study in the embedded engine: check everything, reserve, run the rounds, write the results.

`secfed.reports.folder` lists what a run's folder holds; `out/sites/NAME/` holds each site's ledger and store.

`prepare` only reads and checks; nothing is written until it has accepted everything. Then every site's ledger reserves
the whole study, before any training. From there on `secfed.aggregator.aggregation` runs the study over a channel that
calls the nodes: the simulation runs the deployed code, and continues after a crash in the same way.
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
from secfed.models.data import read_test_set, tokenise
from secfed.models.tasks import kind_of
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
"""What else a run's folder holds: the journal, the summary, and the sites' ledgers and stores."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that was checked but has not begun."""

    file: StudyFile
    """The study, and the bytes that were read: a later change of the file has no effect."""
    out: Path
    base: Path
    sites: tuple[Site, ...]
    test_set: Mapping[str, list[Any]]
    simulation: Simulation
    epsilon_by_round: tuple[float, ...]
    """Nominal epsilon after each round."""

    @property
    def study(self) -> Study:
        """The study to run."""
        return self.file.study


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a run."""

    summary: Mapping[str, Any]
    records: tuple[RoundRecord, ...]


def prepare(study_path: Path, out: Path) -> Plan:
    """Read and check everything that a run needs. Writes nothing.

    Args:
        study_path: the study file; beside it lie `sites/`, `test.jsonl`, and `simulation.toml` if dropouts are
            simulated.
        out: the run's folder.

    Raises:
        UserError, DPError: the run cannot start; the text says why and gives the next step.
    """
    file = StudyFile.read(study_path)
    study = file.study
    check_writable(out)
    _check_out(file, out)
    folder = study_path.parent
    sites = tuple(
        read_site(study, entry.name, folder / "sites" / entry.name, out / "sites" / entry.name)
        for entry in study.roster
    )
    test_set = read_test_set(folder / "test.jsonl", kind_of(study))
    base = find_base(study, folder)
    simulation = load_simulation(folder / "simulation.toml", study)
    account.check_noise(study)
    return Plan(file, out, base, sites, test_set, simulation, account.epsilon_by_round(study))


def execute(plan: Plan, reporter: Reporter, confirmed: Callable[[], bool] = lambda: True) -> Result:
    """Show the privacy plan; once it is confirmed, run the study and write the run's folder.

    If the run ends early after its first round was opened, running the same study in the same folder continues it. If
    it ends before that, nothing stays in the folder.

    Args:
        plan: from `prepare`.
        reporter: shows the plan, then the progress.
        confirmed: called after the plan is shown; nothing is written or reserved before it returns True.

    Raises:
        UserError: the model cannot be trained privately or cannot read a site's records, the plan was not confirmed, or
            too few sites take part.
    """
    study = plan.study
    opened = open_study_model(study, plan.base)
    _show_plan(plan, opened, reporter)
    if not confirmed():
        raise UserError("the plan was not confirmed", "Nothing was started and nothing was spent")
    trainers = [trainer_for(study, index, opened, site.patients) for index, site in enumerate(plan.sites)]
    with alone_in(plan.out), _gone_unless_begun(plan), ExitStack() as stack:
        _check_out(plan.file, plan.out)  # another process may have used it since
        _lay_out(plan)
        nodes = _start_nodes(plan, trainers, stack, reporter)
        work = _work(plan, opened)
        channel = EmbeddedChannel(
            nodes,
            plan.simulation,
            lambda name, reason: reporter.show(Note(f"  {name} refuses (only its owner is told): {reason}")),
            work.file_digest,
        )
        aggregation = Aggregation(work, channel, reporter.show, pause=_nobody_else_comes)
        return Result(aggregation.run(ENGINE), aggregation.records)


def _work(plan: Plan, opened: StudyModel) -> Work:
    """The study for the aggregator. It never waits for a site: in one process, a site that does not answer at once
    never will.
    """
    return Work(
        study=plan.study,
        study_file=plan.file.data,
        opened=opened,
        test_set=tokenise(plan.test_set, opened.tokenizer, opened.model.kind),
        epsilon_by_round=plan.epsilon_by_round,
        out=plan.out,
        deadlines=Deadlines(gathering_seconds=0.0, handover_seconds=0.0),
        left_out=frozenset,
    )


def _nobody_else_comes(_: float) -> None:
    """Called instead of waiting: all sites are in this process and have already answered.

    Raises:
        UserError: always.
    """
    raise UserError("too few sites take part for a round", "Fix the reasons shown above, then run the study again")


def _show_plan(plan: Plan, opened: StudyModel, reporter: Reporter) -> None:
    """The changes that the guards made to the model, the privacy plan, and how well the model reads the sites' records.

    Raises:
        UserError: the model reads a site's records worse than the site's policy allows.
    """
    for mended in opened.verdict.mended:
        reporter.show(Note(f"the model: {mended}"))
    figures = {site.name: check_texts(site, opened.tokenizer, plan.study) for site in plan.sites}
    shown = privacy_plan(plan.study, plan.sites, opened.model.describe(), plan.epsilon_by_round[-1], RunKind.SIMULATION)
    reporter.show(Note("\n".join([shown, *in_columns([("texts", told(figures))])])))


def _check_out(file: StudyFile, out: Path) -> None:
    """Check the run's folder: it holds one run. An unfinished run of this study continues.

    Raises:
        UserError: the folder holds another run, a finished run, or other files, or a site in it has lost its ledger or
            store.
    """
    another = UserError(f"{out} already holds another run", "Choose a new folder with --out")
    folders = [out / "sites" / entry.name for entry in file.study.roster]
    if (out / run_folder.SUMMARY).exists():
        if not any((folder / LEDGER_FILE).exists() for folder in folders):
            raise another
        raise UserError(
            f"{out} already holds a finished run, and its sites' privacy budget is spent on it",
            "Choose a new folder with --out. To continue with these sites, grant a budget for a new study",
        )
    begun = is_begun(out)
    ours = (out / run_folder.STUDY).is_file() and (out / run_folder.STUDY).read_bytes() == file.data
    if not begun and not any((folder / STORE_FILE).exists() for folder in folders):
        _check_free(out, ours)
        return
    if not ours:
        raise another
    for folder in folders:  # reservations come first, then stores, then the first round
        if not is_reserved(file.study, folder / LEDGER_FILE):
            raise _forgotten(folder / LEDGER_FILE, folder.name, "what this study has spent")
        if begun and not (folder / STORE_FILE).exists():
            raise _forgotten(folder / STORE_FILE, folder.name, "which rounds it has joined")


def _forgotten(path: Path, name: str, what: str) -> UserError:
    return UserError(
        f"the run of this study began here, but {path} is missing or knows nothing of it: {name} would forget {what}",
        "Restore the run's folder from a copy; without one, this run cannot continue",
    )


def _check_free(out: Path, ours: bool) -> None:
    """Before the first round, a folder may hold files of a run only if a crash of this study's run left them.

    Args:
        out: the folder.
        ours: whether the folder's study is the one to run.

    Raises:
        UserError: a foreign file would be overwritten or taken for one of the run's.
    """
    for name in _WRITTEN:
        path = out / name
        left = ours and name in (run_folder.STUDY, run_folder.FIRST_STATE)
        if left or not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir())):
            continue
        raise UserError(
            f"{path} already exists and does not belong to an unfinished run of this study",
            "Nothing was written. Choose a new folder with --out",
        )


@contextmanager
def _gone_unless_begun(plan: Plan) -> Iterator[None]:
    """Remove what the block wrote into the run's folder if it ends early, before any round was opened."""
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
    """Record each policy's grant, and reserve the whole study at every site before any training: at all sites or at
    none.

    When a run continues, its sites already hold their reservations.
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
    """Reserve the study in every ledger, and start the nodes. Closing `stack` closes ledgers and stores."""
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
