"""What a site's owner does not grant is refused in one line, and nothing is spent."""

from __future__ import annotations

import multiprocessing
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from dp.accounting import epsilon
from dp.budgets import Grant
from dp.errors import BudgetExceeded, DPError, NotReserved
from dp.ledger import Ledger
from secfed.engines.embedded.channel import Simulation
from secfed.engines.embedded.run import Plan, _reserve
from secfed.errors import UserError
from secfed.models.data import Columns
from secfed.node.keys import write_identity
from secfed.node.policy import load_policy
from secfed.node.privacy_plan import privacy_plan
from secfed.node.sites import LEDGER_FILE, Site, read_site, reserve
from secfed.rounds.run_facts import RunKind
from secfed.study.account import check_noise, price
from secfed.study.approvals import StudyFile
from secfed.study.manifest import Study
from tests.secfed.federation import BASE_DIGEST, Federation, identities, make_policy, make_study

NAME = "hospital-0"
COLUMNS = Columns("patient", "text", "label")
POLICY = {"population": "adults", "patients": 10_000, "epsilon": 8.0, "delta": 1e-5}


def write_policy(source: Path, **budget: Any) -> None:
    lines = [f"{key} = {value!r}".replace("'", '"') for key, value in {**POLICY, **budget}.items()]
    (source / "policy.toml").write_text(
        "\n".join(["[cohort]", "minimum = 3", "[budget]", *lines, "[allow]", f'base_models = ["{BASE_DIGEST}"]'])
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """What the first hospital brings."""
    source = tmp_path / "source"
    source.mkdir()
    write_identity(source / "identity.key", identities(5)[0])
    write_policy(source)
    lines = (f'{{"patient": "{number}", "text": "words", "label": "no"}}\n' for number in range(100))
    (source / "patients.jsonl").write_text("".join(lines))
    return source


def read(source: Path, study: Study | None = None) -> Site:
    return read_site(study or make_study(), NAME, source, source.parent / "records")


def refusal(source: Path, study: Study | None = None) -> str:
    """The one line with which a site refuses; it writes nothing."""
    ledger = source.parent / "records" / LEDGER_FILE
    before = ledger.read_bytes() if ledger.exists() else None
    with pytest.raises(UserError) as refused:
        read(source, study)
    assert (ledger.read_bytes() if ledger.exists() else None) == before
    assert "\n" not in str(refused.value)
    return str(refused.value)


def ledger_of(source: Path) -> Ledger:
    key = identities(5)[0]
    (source.parent / "records").mkdir(exist_ok=True)
    return Ledger(source.parent / "records" / LEDGER_FILE, lambda entry: key.sign("ledger entry", entry))


def test_the_site_that_the_others_below_are_made_from_is_accepted(source: Path) -> None:
    assert read(source).policy.budget.grant == Grant("adults", 10_000, 8.0, 1e-5)


@pytest.mark.parametrize(("amount", "small"), [("epsilon", 5.63), ("delta", 9e-6)])
@pytest.mark.parametrize("granted", [False, True])
def test_a_budget_too_small_for_the_study(source: Path, amount: str, small: float, granted: bool) -> None:
    write_policy(source, **{amount: small})
    if granted:
        with ledger_of(source) as ledger:
            ledger.grant(load_policy(source / "policy.toml", NAME).budget.grant)
    assert "this study asks for epsilon 5.64, delta 0.00001; left of the budget of adults are" in refusal(source)


def test_a_delta_too_large_for_the_population(source: Path) -> None:
    write_policy(source, patients=10_001)
    assert "budget: a delta of 0.00001 is above 1/(10 N) for N = 10001" in refusal(source)


def test_a_study_that_counts_more_patients_than_the_population_has(source: Path) -> None:
    write_policy(source, patients=99)
    assert "counts 100 patients at hospital-0, but the site's policy grants a budget for 99" in refusal(source)


@pytest.mark.parametrize("change", [{"epsilon": 9.0}, {"patients": 9_000}, {"disjoint": "nobody is in both"}])
def test_a_policy_that_was_changed_after_the_grant(source: Path, change: dict[str, Any]) -> None:
    with ledger_of(source) as ledger:
        ledger.grant(Grant("adults", 10_000, 8.0, 1e-5))
    write_policy(source, **change)
    assert "the budget of adults is epsilon 8.0, delta 0.00001 for 10000 patients since" in refusal(source)


def test_a_ledger_of_another_population(source: Path) -> None:
    with ledger_of(source) as ledger:
        ledger.grant(Grant("children", 10_000, 8.0, 1e-5))
    assert "ledger's budget is for children, and the one asked for is for adults" in refusal(source)


def test_a_second_population_with_the_owners_word_is_accepted(source: Path) -> None:
    with ledger_of(source) as ledger:
        ledger.grant(Grant("children", 10_000, 8.0, 1e-5))
        ledger.reserve("children", make_study(privacy={"epsilon": 7.0}).digest, 8.0, 1e-5, 4)
    write_policy(source, disjoint="The registry: nobody is in both")
    assert read(source).policy.budget.disjoint == "The registry: nobody is in both"


def test_what_is_reserved_is_what_the_study_can_spend_and_not_what_it_promises(source: Path, tmp_path: Path) -> None:
    study = make_study()
    figure = epsilon(0.1, 0.7, 8, 1e-5)
    assert 5.63 < figure <= 5.64 < study.privacy.epsilon
    with ledger_of(source) as ledger:
        reserve(study, read(source), ledger)
        balance = ledger.balance("adults")
    assert (balance.reserved_epsilon, balance.left_epsilon) == (Decimal("5.64"), Decimal("2.36"))


@pytest.mark.parametrize(
    ("promised", "figure", "cost"),
    [(8.0, 4.1301, "4.14"), (8.0, 4.13, "4.13"), (8.0, 8.0, "8.00"), (7.995, 7.9949, "7.995"), (8.0, 7.9982, "8.00")],
)
def test_a_price_is_never_below_the_figure_and_never_above_the_promise(
    promised: float, figure: float, cost: str
) -> None:
    found = price(make_study(privacy={"epsilon": promised}), figure)
    assert found == Decimal(cost)
    assert Decimal(repr(figure)) <= found <= Decimal(repr(promised))


def test_the_plan_names_the_smallest_epsilon_and_the_noise_that_would_spend_the_promise(tmp_path: Path) -> None:
    study, sites = make_study(), plan_of(make_study(), tmp_path, (8.0,) * 5).sites
    shown = privacy_plan(study, sites, "a model", check_noise(study), RunKind.SIMULATION)
    found = re.search(
        r"promises 8 and can spend (\S+): .* privacy.epsilon = (\S+) would do, or .* = (\S+) would", shown
    )
    assert found is not None
    assert found[1] == found[2] == "5.64"
    # Either of the two fits, and the next smaller one does not.
    assert check_noise(make_study(privacy={"epsilon": 5.64})) <= 5.64
    with pytest.raises(UserError, match=r"promises epsilon 5\.63"):
        check_noise(make_study(privacy={"epsilon": 5.63}))
    noise = float(found[3])
    assert 7.98 < check_noise(make_study(privacy={"noise_multiplier": noise})) <= 8
    with pytest.raises(UserError, match="promises epsilon 8"):
        check_noise(make_study(privacy={"noise_multiplier": round(noise - 1e-4, 4)}))
    assert "epsilon 2.36 of 8 will be left at every site" in shown
    exact = make_study(privacy={"epsilon": 5.64})
    assert "to spare" not in privacy_plan(exact, sites, "a model", check_noise(exact), RunKind.SIMULATION)


def plan_of(study: Study, folder: Path, epsilons: tuple[float, ...]) -> Plan:
    """A plan with hospitals that grant so much, and keep their ledgers in `folder`."""
    sites = []
    for index, granted in enumerate(epsilons):
        records = folder / f"site-{index}"
        records.mkdir(exist_ok=True)
        sites.append(Site(f"hospital-{index}", identities(5)[index], make_policy(epsilon=granted), {}, records))
    return Plan(StudyFile(study, b""), folder, folder, tuple(sites), {}, Simulation(), (8.0,))


def test_where_one_hospital_refuses_at_the_last_moment_nothing_is_spent_at_the_others(tmp_path: Path) -> None:
    plan = plan_of(make_study(), tmp_path, (8.0, 8.0, 5.0, 8.0))
    ledgers = [site.open_ledger() for site in plan.sites]
    with pytest.raises(BudgetExceeded) as refused:
        _reserve(plan, ledgers)
    assert "\n" not in str(refused.value)
    assert [ledger.balance("test").left_epsilon for ledger in ledgers] == [8, 8, 5, 0]
    kinds = [[entry.kind for entry in ledger.entries()] for ledger in ledgers]
    assert kinds == [["grant", "reserve", "withdraw"], ["grant", "reserve", "withdraw"], ["grant"], []]


def _reserve_in_a_process(folder: Path, purpose: str, start: Any, outcomes: Any) -> None:
    values = make_study().model_dump(mode="json") | {"purpose": purpose}
    plan = plan_of(Study.model_validate(values, strict=False), folder, (5.64,) * 5)
    ledgers = [site.open_ledger() for site in plan.sites]
    start.wait()
    try:
        _reserve(plan, ledgers)
        outcomes.put("reserved")
    except DPError as error:
        outcomes.put(str(error))


def test_two_studies_that_start_at_once_cannot_both_take_the_last_of_the_budgets(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, outcomes = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=_reserve_in_a_process, args=(tmp_path, purpose, start, outcomes), daemon=True)
        for purpose in ("one", "other")
    ]
    for process in processes:
        process.start()
    found = sorted(outcomes.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    (refused,) = (line for line in found if line != "reserved")
    assert "left of the budget of test are epsilon 0.00, delta 0" in refused
    assert "\n" not in refused
    for index in range(5):
        with plan_of(make_study(), tmp_path, (8.0,) * 5).sites[index].open_ledger() as ledger:
            assert [entry.kind for entry in ledger.entries()] == ["grant", "reserve"]


def test_a_hospital_whose_study_is_withdrawn_in_a_round_sends_no_update(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path)
    ledger, trainer = federation.nodes[2].parts.ledger, federation.trainers[2]
    train = trainer.contribute

    def withdraw_meanwhile(*arguments: Any) -> Any:
        vector = train(*arguments)
        if trainer.trained == [1]:
            ledger.withdraw(federation.study.digest)
        return vector

    trainer.contribute = withdraw_meanwhile  # type: ignore[method-assign]
    _, records = federation.run()
    assert all(not record.void and "hospital-2" not in record.survivors for record in records)
    assert [name for name, reason in federation.refusals if "was withdrawn at this node" in reason] == [
        "hospital-2"
    ] * 4
    assert [entry.kind for entry in ledger.entries()] == ["grant", "reserve", "withdraw", "run"]
    with pytest.raises(NotReserved):
        ledger.commit(federation.study.digest, 1)
