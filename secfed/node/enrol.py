"""Sets up a site's node: first a home with a key and a policy that allows nothing, then its data."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from pydantic import ValidationError

from crypto.identity import Identity
from secfed.errors import UserError
from secfed.files.toml import TOML_BYTES_MAX, parse_toml, toml_text
from secfed.files.whole import write_whole
from secfed.models.data import Columns, Encoding, Survey, survey
from secfed.node.home import KEY, MODELS, NODE, POLICY, STUDIES, Home
from secfed.node.keys import write_identity
from secfed.node.policy import BudgetPolicy, PolicyFile
from secfed.node.settings import Dataset, NodeFile, write_node_file
from secfed.study.manifest import band_around, first_problem


@dataclass(frozen=True, slots=True)
class NewBudget:
    """The budget that the owner sets for a population that has none yet."""

    patients: int | None
    epsilon: float | None
    delta: float | None
    disjoint: str


def make_home(path: Path, name: str) -> Home:
    """Make a node's home with a fresh identity. On failure nothing is left behind.

    Args:
        path: the new folder; it may exist if it is empty.
        name: the node's name.

    Raises:
        UserError: the folder is not empty, the name is invalid, or the folder cannot be written.
    """
    try:
        node = NodeFile(name=name)
    except ValidationError as error:
        raise UserError(
            f"{name} is not a valid name for a node", "Use small letters, digits and hyphens, as in harbour-clinic"
        ) from error
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(
            f"{path} exists and is not empty", "Name a new folder with --home; a node's key is made once and kept"
        )
    beside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=".secfed-", dir=path.parent))  # mode 0700
        write_identity(beside / KEY, Identity.generate())
        write_whole(beside / POLICY, files("secfed.node").joinpath("policy.toml").read_bytes())
        write_node_file(beside / NODE, node)
        for folder in (STUDIES, MODELS):
            (beside / folder).mkdir(mode=0o700)
        beside.rename(path)
    except OSError as error:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)
        raise UserError(
            f"the node's folder {path} cannot be made ({error.strerror})",
            "Check the parent folder's permissions, or choose another folder",
        ) from error
    return Home.open(path)


def register(
    home: Home,
    file: Path,
    name: str,
    population: str,
    columns: Columns,
    budget: NewBudget,
    encoding: Encoding = "utf-8",
) -> tuple[Home, Survey]:
    """Register a data file, and its population's budget if the policy has none.

    Args:
        home: the node's home.
        file: JSON lines, CSV or Parquet.
        name: the owner's name for the file.
        population: whose records these are.
        columns: the fields of a record; only the patient column is stored.
        budget: for a population that has no budget here yet.
        encoding: the encoding of a text file.

    Returns:
        The updated home, and what the file holds, for the owner only.

    Raises:
        UserError: the file cannot be read as records, or does not fit the population; nothing is written.
    """
    seen = survey(file, columns, encoding)
    node = _with_dataset(home.node, file, name, population, columns, encoding)
    policy = home.policy()
    held = policy.budget_of(population)
    agreed = held or _agreed(population, budget)
    if held is not None:
        _refuse_other(held, budget)
    if seen.patients > band_around(agreed.patients)[1]:
        raise UserError(
            f"{file} holds {seen.patients} patients, but the budget of {population} is for {agreed.patients}. This "
            "count is shown only here",
            "Give the population's size, rounded, with --patients N; delta may be at most 1/(10 N)",
        )
    try:
        if held is None:
            _append_budget(home.path / POLICY, policy, agreed)
        write_node_file(home.path / NODE, node)
    except OSError as error:
        raise UserError(
            f"{home.path} cannot be written ({error.strerror})", "Check its permissions and its disk"
        ) from error
    return Home.open(home.path), seen


def _with_dataset(
    node: NodeFile, file: Path, name: str, population: str, columns: Columns, encoding: Encoding
) -> NodeFile:
    try:
        new = Dataset(
            name=name,
            file=str(file.absolute()),
            population=population,
            patient_column=columns.patient,
            encoding=encoding,
        )
        return NodeFile(name=node.name, data=(*node.data, new))
    except ValidationError as error:
        raise UserError(
            f"the data file cannot be registered: {first_problem(error)}", "Give another --name or --population"
        ) from error


def _agreed(population: str, new: NewBudget) -> BudgetPolicy:
    if new.patients is None or new.epsilon is None or new.delta is None:
        raise UserError(
            f"the population {population} has no budget in policy.toml yet",
            "Set its lifetime budget with --patients, --epsilon and --delta",
        )
    try:
        return BudgetPolicy(
            population=population,
            patients=new.patients,
            epsilon=new.epsilon,
            delta=new.delta,
            disjoint=new.disjoint,
        )
    except ValidationError as error:
        raise UserError(f"invalid budget: {first_problem(error)}", "Nothing was written. Give other values") from error


def _refuse_other(held: BudgetPolicy, new: NewBudget) -> None:
    """Values that are given again must match the policy."""
    for name in ("patients", "epsilon", "delta"):
        if getattr(new, name) not in (None, getattr(held, name)):
            raise UserError(
                f"the policy already gives {held.population} a {name} of {getattr(held, name):g}",
                f"Omit --{name}; until the first grant, the owner can change the value in policy.toml",
            )


def _append_budget(path: Path, policy: PolicyFile, budget: BudgetPolicy) -> None:
    """Append a table to the policy; all comments stay."""
    if policy.budget and not budget.disjoint:
        raise UserError(
            f"this node already has a budget for {policy.budget[0].population}, and {budget.population} is a "
            "different population",
            "If a patient may be in both, use the same population. If none can be, say why with --disjoint TEXT",
        )
    lines = [
        f"population = {toml_text(budget.population)}",
        f"patients = {budget.patients}",
        f"epsilon = {budget.epsilon!r}",
        f"delta = {budget.delta!r}",
        *([f"disjoint = {toml_text(budget.disjoint)}"] if budget.disjoint else []),
    ]
    text = path.read_text().rstrip("\n") + "\n\n" + "\n".join(["[[budget]]", *lines]) + "\n"
    data = text.encode()
    try:
        parse_toml(data[: TOML_BYTES_MAX + 1], path)
    except UserError as error:
        raise UserError(
            f"the budget of {budget.population} cannot be added to {path}, because its budget is written in "
            "another form",
            "Write [[budget]] there instead of [budget], and run the command again",
        ) from error
    write_whole(path, data)
