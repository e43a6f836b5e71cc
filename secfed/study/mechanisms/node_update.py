"""Distributed mode where the unit of privacy is a node with all its data, such as a household (DP-FedAvg).

A node trains by itself, without noise. Its whole update is clipped, and the sum over all nodes is noised. Nodes are not
sampled: everybody sees that a node takes part, so sampling would hide nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from dp.events import Unit
from dp.step_plan import NodePlan
from secfed.files.figures import rounded_up
from secfed.study.algorithms import Algorithm, FedOptAdamBC, FedProx, LocalTraining
from secfed.study.mechanisms.shared_noise import SharedNoise
from secfed.study.mechanisms.words import Costs, Row
from secfed.study.vouchers import Statement, Voucher, not_said


class NodeUpdate(SharedNoise):
    """The clipped updates of all nodes in one sum, each node one unit of privacy.

    D of the strategy is their mean over the survivors (McMahan et al. 2018, algorithm 1), all of equal weight. Nothing
    is drawn, so no batch overflows.
    """

    units = frozenset({Unit.NODE})
    party = "node"
    what, direction, turn = "update", 1.0, "round"
    overflow_probability = 0.0

    def check_fits(self, algorithm: Algorithm) -> None:
        _local(algorithm)

    def check_roster(self) -> None:
        several = next((entry for entry in self.study.roster if entry.patients != 1), None)
        if several is not None:
            raise ValueError(
                'with unit = "node" every node is one unit of privacy, whatever is in its data: patients must be 1 '
                f"for each, but {several.name} has {several.patients}"
            )

    def check_size(self, name: str, patients: Mapping[str, Sequence[object]]) -> None:
        """One unit with any number of records: nothing is planned by that number."""

    def plan(self, index: int, clip: float | None = None) -> NodePlan:
        privacy, algorithm = self.privacy, self.study.algorithm
        local = _local(algorithm)
        return NodePlan(
            steps=local.steps,
            optimizer=local.optimizer,
            learning_rate=local.learning_rate,
            physical_batch=algorithm.physical_batch,
            clip=privacy.clip if clip is None else clip,
            grid=privacy.grid,
            noise_variance=self.share_variance,
            indicator=privacy.indicator,
            proximal_mu=algorithm.mu if isinstance(algorithm, FedProx) else 0.0,
        )

    def progress_steps(self, index: int) -> int:
        return _local(self.study.algorithm).steps

    @cached_property
    def largest_input(self) -> int:
        """One update, a whole norm long in one direction."""
        return self.privacy.grid

    @property
    def work_in_short(self) -> tuple[str, str]:
        plan = self.plan(0)
        local = f"{plan.steps} plain local steps of {plan.physical_batch} records by {plan.optimizer}"
        rounds = f"in each of T = {self.study.steps} rounds"
        return "a node's part", f"{local} {rounds}, nobody is drawn, {self.clip_in_short}"

    @property
    def sampling_meaning(self) -> str:
        return "nodes are not sampled: everybody sees that a node takes part, so sampling would hide nothing"

    def parameter_rows(self) -> list[Row]:
        plan = self.plan(0)
        return [
            *self.noise_rows(),
            (
                "Rounds",
                "T",
                f"{self.study.steps}",
                "one noised sum of all nodes' updates in each, all accounted for",
            ),
            (
                "Local steps",
                "",
                f"{plan.steps} in a round, of {plan.physical_batch} records",
                "without noise: the whole update is clipped; a node with fewer records repeats them",
            ),
            ("Local optimiser", "", f"{plan.optimizer}, {plan.learning_rate:g}", "starts afresh in every round"),
            self.grid_row(),
        ]

    def strategy_meaning(self) -> str:
        algorithm = self.study.algorithm
        mean = "the sum, divided by the number of its nodes, is the mean update; works on published sums only"
        if isinstance(algorithm, FedProx):
            return f"{mean}; the proximal term is part of local training, before the clip"
        return f"{mean}, less the noise's public variance" if isinstance(algorithm, FedOptAdamBC) else mean

    def largest_in_words(self) -> str:
        return "one update"

    def analysed(self) -> tuple[str, str]:
        event = self.event
        return (
            "zero-out one node, Gaussian mechanism without sampling",
            f"{event.steps} × Gaussian noise σ = {event.noise_multiplier:g}",
        )

    @property
    def protected(self) -> tuple[str, str]:
        return "one node", "with all its data"

    @property
    def without(self) -> str:
        return "if one node had contributed zero in place of what its data gives"

    @property
    def whose_promise(self) -> str:
        return "the people behind"

    @property
    def half_of_a_group(self) -> str:
        return (
            "If half of a group of nodes contributed what their data gives, and half zero, the best test of which did "
            "is"
        )

    def for_a_change(self, promised: str, exchange: str) -> str:
        return f"The promise of {promised} is for contributing or not; for a change of a node's data it is {exchange}."

    def rests_on_code(self) -> list[Statement]:
        once = (
            "the whole change that local training makes is clipped once, rounded toward zero, and its norm checked in "
            "whole numbers; nothing is assumed of the training behind it"
        )
        attendance = Statement(
            "When a node takes part does not depend on what is in its data",
            Voucher.ASSUMED,
            "everybody sees attendance; the guarantee covers what a node contributes",
        )
        return [*self.rests_on_clip(once), attendance, *self.rests_on_noise()]

    @property
    def public_denominators(self) -> str:
        return "all nodes have the same weight, and a sum's receipt names its nodes"

    def rests_on_people(self) -> list[Statement]:
        return [
            not_said(
                "The unit to protect is a node with all its data",
                "all people in it are protected together; section 3 says what it costs somebody who is in the data of "
                "two nodes",
            ),
            not_said(
                "The study's figures were chosen without looking at the nodes' records",
                "tuning runs on the same nodes must be booked as separate studies",
            ),
        ]

    @property
    def own_people(self) -> str:
        return "people"

    def people_not_covered(self, costs: Costs) -> list[tuple[str, str]]:
        exchange = rounded_up(costs.epsilon_replace_one, 2)
        return [
            (
                "Findings about people in general",
                "What the model learns about a population applies to everyone in it, whether their node took part or "
                "not.",
            ),
            (
                "Single people in a node's data",
                "The people behind one node (for example a household) are protected together. The figure at the top "
                "compares all of a node's data with zero. To add or remove one person or one event is a change of the "
                f"data, with an epsilon of at most {exchange}.",
            ),
            (
                "A person who is in the data of several nodes",
                f"Each node adds to their epsilon. Only an epsilon of {exchange} hides what two nodes contribute "
                "together; for three or more nodes it is higher.",
            ),
        ]

    @property
    def who_takes_part(self) -> tuple[str, str]:
        return (
            "That a node takes part, and when",
            "All parties know the nodes' names and their attendance in every round. The guarantee hides what a node "
            "contributes. A node that stays away because of what is in its data shows that.",
        )

    @property
    def same_work(self) -> str:
        return "Local training is the same work at every node"

    @property
    def withdrawal(self) -> str:
        return (
            "The node's operator must stop it, or take data out of its file, which takes effect when the node next "
            "starts the job. What was trained, spent and published stays."
        )


def _local(algorithm: Algorithm) -> LocalTraining:
    """The `[algorithm.local]` table, which this mode needs.

    Raises:
        ValueError: the study has none.
    """
    if algorithm.local is None:
        raise ValueError(
            'with unit = "node" every node trains by itself, and its update is clipped as a whole: add '
            "[algorithm.local] with steps and learning_rate"
        )
    return algorithm.local
