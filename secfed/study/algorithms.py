"""A study's `[algorithm]` table: how the model is updated. One class for each strategy, with the values that it uses.

A key that has no effect under the chosen strategy is refused, not ignored, so that every line of a signed study means
something. Defaults are signed, too. `secfed.rounds.strategies` implements the strategies; the proximal term of FedProx
is part of local training (`dp.training`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag, model_validator

from secfed.study.sections import Section, refuse_without_effect

Decay = Annotated[float, Field(ge=0, lt=1)]


class LocalTraining(Section):
    """Several steps at each site in a round: `[algorithm.local]`. In local mode each step is private. With
    `unit = "node"` the steps are plain, and the update as a whole is private."""

    steps: int = Field(ge=1, le=10_000)
    """Local steps in a round."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """It starts anew in every round."""
    learning_rate: float = Field(gt=0, le=10)
    """Its step length."""


class _Algorithm(Section):
    """Keys of every strategy."""

    strategy: str
    rounds: int = Field(ge=1, le=100_000)
    local: LocalTraining | None = None
    """None in distributed mode, where a round is one step of all sites together, unless the unit is a node."""
    physical_batch: int = Field(default=32, ge=1, le=4096)
    """Records per forward pass, always exactly this many: the rest is padding. With `unit = "node"` the records of one
    local step; a node that has fewer repeats them."""

    @model_validator(mode="before")
    @classmethod
    def _every_key_has_an_effect(cls, values: Any) -> Any:
        refuse_without_effect(values, cls, STRATEGIES.values(), f"with strategy {cls.model_fields['strategy'].default}")
        return values


class FedAvg(_Algorithm):
    """Federated averaging (McMahan et al. 2017): x moves by the weighted mean D of the sites' updates."""

    strategy: Literal["fedavg"] = "fedavg"
    local: LocalTraining


class FedProx(_Algorithm):
    """FedAvg that keeps sites near the round's start x_t (Li et al. 2020): each site trains on its own objective plus
    mu/2 |x - x_t|^2."""

    strategy: Literal["fedprox"] = "fedprox"
    local: LocalTraining
    mu: float = Field(ge=0, le=1e6)
    """Weight of the proximal term. Usual values are .001, .01, .1 and 1; 0 is FedAvg."""

    @model_validator(mode="after")
    def _has_an_effect(self) -> FedProx:
        if self.local.steps == 1:
            raise ValueError(
                "fedprox with local.steps = 1 is fedavg: the first step of a round starts at x_t, where the proximal "
                "gradient is zero; use more local steps, or strategy fedavg"
            )
        return self


class _FedOpt(_Algorithm):
    """An optimiser that runs over the rounds (Reddi et al. 2021).

    Its input D is the negative mean gradient in distributed mode, and the mean update in local mode and with
    `unit = "node"`.
    """

    server_learning_rate: float = Field(gt=0, le=100)
    """eta. Every node computes the step itself, from the published sum; the aggregator decides nothing here."""
    beta1: Decay = 0.9
    """Decay of the first moment m from round to round."""


class FedOptSgd(_FedOpt):
    """SGD with momentum (FedAvgM, Hsu et al. 2019). With beta1 = 0 and eta = 1 it is FedAvg."""

    strategy: Literal["fedopt-sgd"] = "fedopt-sgd"


class _Adaptive(_FedOpt):
    """Steps divided by the root of a second moment v (Reddi et al. 2021, algorithm 2)."""

    tau: float = Field(default=1e-3, gt=0, le=1)
    """Added to the root; v starts at tau^2. A larger tau makes the steps adapt less."""


class FedOptAdam(_Adaptive):
    """v is a moving average of D^2 (FedAdam)."""

    strategy: Literal["fedopt-adam"] = "fedopt-adam"
    beta2: Decay = 0.99
    """Decay of the second moment from round to round."""


class FedOptAdamBC(_FedOpt):
    """Adam with a correction for the privacy noise (DP-AdamBC, Tang, Shpilevskiy and Lecuyer 2024): the public variance
    of the noise is subtracted from v. Only in distributed mode, where D has that noise."""

    strategy: Literal["fedopt-adambc"] = "fedopt-adambc"
    beta2: Decay = 0.99
    """Decay of the second moment from round to round."""
    floor: float = Field(gt=0, le=1)
    """gamma': the smallest value that the second moment counts as. If D is pure noise, v moves around zero by about a
    tenth of the noise variance (at beta2 = 0.99): a lower floor makes random steps."""


class FedOptYogi(_Adaptive):
    """v moves towards D^2 in steps of (1 - beta2) D^2, whatever the distance (FedYogi)."""

    strategy: Literal["fedopt-yogi"] = "fedopt-yogi"
    beta2: Decay = 0.99
    """Decay of the second moment from round to round."""


class FedOptAdagrad(_Adaptive):
    """v is the sum of all D^2 (FedAdagrad)."""

    strategy: Literal["fedopt-adagrad"] = "fedopt-adagrad"


STRATEGIES: dict[str, type[_Algorithm]] = {
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "fedopt-sgd": FedOptSgd,
    "fedopt-adam": FedOptAdam,
    "fedopt-adambc": FedOptAdamBC,
    "fedopt-yogi": FedOptYogi,
    "fedopt-adagrad": FedOptAdagrad,
}
"""Every strategy by its name in a study."""


def _strategy_of(value: Any) -> str | None:
    """The strategy that a table names; `fedavg` if it names none."""
    if isinstance(value, dict):
        name = value.get("strategy", "fedavg")
        return name if isinstance(name, str) else None
    return getattr(value, "strategy", None)


Algorithm: TypeAlias = Annotated[
    Annotated[FedAvg, Tag("fedavg")]
    | Annotated[FedProx, Tag("fedprox")]
    | Annotated[FedOptSgd, Tag("fedopt-sgd")]
    | Annotated[FedOptAdam, Tag("fedopt-adam")]
    | Annotated[FedOptAdamBC, Tag("fedopt-adambc")]
    | Annotated[FedOptYogi, Tag("fedopt-yogi")]
    | Annotated[FedOptAdagrad, Tag("fedopt-adagrad")],
    Discriminator(
        _strategy_of,
        custom_error_type="strategy",
        custom_error_message=f"strategy must be one of {', '.join(STRATEGIES)}",
    ),
]
"""Any of them, chosen by `strategy`."""


_FIGURES = ("mu", "server_learning_rate", "beta1", "beta2", "tau", "floor")
"""The strategies' own values, in the order in which people read them."""


def describe(algorithm: Algorithm) -> str:
    """The strategy and its own values, for people: `fedprox (mu 0.01)`."""
    own = [name for name in _FIGURES if name in type(algorithm).model_fields]
    figures = ", ".join(f"{name.replace('_', ' ')} {getattr(algorithm, name):.12g}" for name in own)
    return f"{algorithm.strategy} ({figures})" if own else algorithm.strategy
