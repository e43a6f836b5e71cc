"""The common base of the two mechanisms with shared noise: one noised sum of all parties in a round.

Each party adds a share of the noise in whole numbers, and the promise holds as long as at most c of them collude, leak
their noise, or fail to add it.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from crypto.discrete_gaussian import LARGEST_VARIANCE, SAMPLER_ERROR, SMALLEST_VARIANCE
from dp.delta_terms import OVERFLOW_PROBABILITY, DeltaTerms, DistributedNoise
from dp.errors import OutOfRange
from dp.events import NoiseShares
from dp.step_plan import noise_share, noise_tail
from protocols.parameters import DIMENSION_MAX
from secfed.files.figures import in_words, over
from secfed.study.mechanisms.base import Mechanism
from secfed.study.mechanisms.words import Row
from secfed.study.privacy import AdaptiveClip, DistributedPrivacy, describe
from secfed.study.vouchers import RANDOMNESS, Statement, Voucher


class SharedNoise(Mechanism[DistributedPrivacy]):
    """One sum a round, to which every party adds a share of the noise."""

    table = DistributedPrivacy
    what: ClassVar[str]
    """The word for what a unit contributes and the mechanism clips as a whole."""
    direction: ClassVar[float]
    """1 if the sum points where the model should move, -1 if it points the opposite way."""
    turn: ClassVar[str]
    """C may change from one to the next: `step` or `round`."""
    overflow_probability: ClassVar[float] = OVERFLOW_PROBABILITY
    """The probability that a step draws more units than a node's padded batches hold."""

    @property
    def shares(self) -> NoiseShares:
        """How the noise is divided: t is the fewest survivors of any legal round.

        Raises:
            OutOfRange: c is 0, or no honest node would be left to add noise.
        """
        return NoiseShares(self.study.cohort_rules().fewest_survivors, self.study.cohort.colluders)

    @property
    def share_variance(self) -> Fraction:
        """The variance of one node's share of the noise, in steps of the grid.

        Raises:
            OutOfRange: as `shares`.
        """
        privacy, shares = self.privacy, self.shares
        return noise_share(privacy.exact_noise_multiplier, privacy.grid, shares.quorum, shares.colluders)

    def check_noise(self) -> None:
        variance = self.share_variance
        if not SMALLEST_VARIANCE <= variance <= LARGEST_VARIANCE:
            raise OutOfRange(
                f"one node's noise has a variance of {float(variance):.3g} in grid steps, but the sampler supports "
                f"{float(SMALLEST_VARIANCE):g} to {float(LARGEST_VARIANCE):.3g}: choose another privacy.grid"
            )

    @property
    def adaptive_clip(self) -> AdaptiveClip | None:
        return self.privacy.adaptive_clip

    @property
    def indicator(self) -> int:
        return self.privacy.indicator

    @cached_property
    def noise_tail(self) -> int:
        draws = len(self.study.roster) * self.study.algorithm.rounds * DIMENSION_MAX
        return noise_tail(self.share_variance, draws)

    def mean_change(
        self, total: NDArray[np.int64], survivors: Sequence[int], clip: float | None = None
    ) -> NDArray[np.float64]:
        """C / grid times the sum, over the public q N of the survivors, never over a draw."""
        privacy = self.privacy
        denominator = float(privacy.gradient_grid) * self.study.expected_units(survivors)
        step = (privacy.clip if clip is None else clip) / denominator
        return total.astype(np.float64) * (self.direction * step)

    def noise_variance(self, survivors: Sequence[int], clip: float | None = None) -> float:
        """sigma^2 C^2 |U3| / ((t - c) (q N)^2): every survivor added a share of sigma^2 C^2 / (t - c). Where the
        clipping norm adapts, a gradient has less than the whole norm of a vector, and C / sqrt(1 - kappa^2) stands for
        C."""
        privacy = self.privacy
        whole = (privacy.clip if clip is None else clip) * (float(privacy.grid) / float(privacy.gradient_grid))
        deviation = privacy.noise_multiplier * whole / self.study.expected_units(survivors)
        return deviation * deviation * float(len(survivors)) / float(self.shares.honest)

    @property
    def noise(self) -> DistributedNoise:
        """The dimension is the largest that the protocol has: an adapter's own is known when the model is loaded, and
        the difference is far below anything that shows."""
        return DistributedNoise(
            self.shares,
            nodes=len(self.study.roster),
            dimension=DIMENSION_MAX,
            grid=self.privacy.grid,
            sampler_error=SAMPLER_ERROR,
            overflow_probability=self.overflow_probability,
        )

    def noise_as_run(self, survivors: int) -> float:
        return self.shares.seen(self.privacy.noise_multiplier, survivors, self.shares.colluders)

    @property
    def honest_enough(self) -> str:
        """How much misconduct of others the promise tolerates."""
        count, party = self.study.cohort.colluders, self.party
        if count == 1:
            return (
                f"no more than one {party} works against the others (alone, with another, or with the aggregator), "
                "leaks its noise or leaves it out"
            )
        return (
            f"no more than {in_words(count)} {party}s work against the others (alone, together, or with the "
            "aggregator), leak their noise or leave it out"
        )

    @property
    def against_in_short(self) -> str:
        return f"as long as {self.honest_enough}"

    @property
    def noise_in_short(self) -> str:
        sigma, shares = self.privacy.noise_multiplier, self.shares
        return (
            f"sigma = {sigma:g} C nominal: every {self.party} adds {shares.share(sigma):.3g} C, and {shares.honest} of "
            f"at least {shares.quorum} are counted"
        )

    @property
    def clip_in_short(self) -> str:
        fixed = f"clip C = {self.privacy.clip:g}"
        return (
            fixed if self.adaptive_clip is None else f"{fixed} at first; it {describe(self.adaptive_clip, self.what)}"
        )

    @property
    def longest(self) -> str:
        return f"longest {self.what} that one {self.unit} may contribute (L2)"

    def clip_rows(self, last: float | None) -> list[Row]:
        settings = self.adaptive_clip
        if settings is None:
            return super().clip_rows(last)
        moved = "" if last is None else f", {last:.4g} after the last round"
        return [
            (
                "Clipping norm",
                "C",
                f"{self.privacy.clip:g} at first{moved}",
                f"{self.longest}; {describe(settings, self.what)}, from published sums; noise is proportional to C",
            ),
            (
                "Clipping indicator",
                "κ",
                f"{settings.indicator:g}",
                f"the element that says whether the {self.what} was clipped, in units of a vector's largest norm: it "
                f"is clipped and noised together with the {self.what}, which gets √(1 - κ²) of that norm",
            ),
        ]

    def noise_rows(self) -> list[Row]:
        """Sigma, and each party's share of it."""
        sigma, shares = self.privacy.noise_multiplier, self.shares
        return [
            (
                "Noise multiplier, nominal",
                "σ",
                f"{sigma:g}",
                f"standard deviation, in units of C, of the noise that remains of {shares.quorum} {self.party}s when "
                f"{shares.colluders} give theirs away",
            ),
            (
                f"Noise of one {self.party}",
                "",
                f"{shares.share(sigma):.4g}",
                f"σ / √(t - c) with t = {shares.quorum} and c = {shares.colluders}, in units of C: discrete Gaussian, "
                "drawn afresh for every element and round",
            ),
        ]

    def grid_row(self) -> Row:
        """The grid of all whole numbers."""
        return (
            "Grid",
            "",
            f"{self.privacy.grid} steps per {'C' if self.adaptive_clip is None else 'C / √(1 - κ²)'}",
            f"{self.what}s are rounded toward zero after the clip; from there everything is whole numbers",
        )

    def largest_in_words(self) -> str:
        """The largest input in words."""
        return f"{self.largest_input // self.privacy.grid} {self.unit}s"

    def no_wrap(self) -> tuple[str, str]:
        each = f"({self.largest_in_words()} × {self.privacy.grid} steps + {self.noise_tail} of noise)"
        return (
            "An overflow, which would spoil the model, has a probability below 1 in 10^12 over the whole study, "
            "whoever takes part",
            f"{len(self.study.roster)} {self.party}s × {each}",
        )

    @property
    def sampler(self) -> str:
        return (
            "discrete Gaussian in whole-number arithmetic, from a cryptographic stream under its own secret; each "
            f"number is within a total variation of {SAMPLER_ERROR:.1g} of the exact distribution"
        )

    def delta_rows(self, terms: DeltaTerms) -> list[tuple[str, float]]:
        return [
            ("the sampler's distance from the exact distribution", terms.sampler),
            ("a sum of discrete Gaussians is not exactly a discrete Gaussian", terms.convolution),
            ("the account is for a continuous Gaussian, the noise is discrete", terms.discretisation),
        ]

    @property
    def room(self) -> str:
        shares = self.shares
        return (
            f" The figure still holds if {in_words(shares.colluders)} of the {self.party}s "
            f"{'gives' if shares.colluders == 1 else 'give'} noise away: it counts the noise of "
            f"{in_words(shares.honest)}."
        )

    def against(self, durations: str) -> tuple[str, str]:
        shares, party = self.shares, self.party
        return (
            f"the public, the aggregator and the other {party}s, as long as {self.honest_enough}, and nobody breaks "
            f"the cryptography; {durations}",
            f"Every {party} adds a share of the noise, and secure aggregation publishes the noised sum alone. At least "
            f"{shares.quorum} {party}s are in every sum; the figure counts the noise of {shares.honest} of them. The "
            "table in section 1 shows the figure when more of them fail.",
        )

    def rests_on_noise(self) -> list[Statement]:
        """How noise is made."""
        return [
            Statement(
                "The noise has the distribution that is accounted for",
                Voucher.TESTED,
                "whole-number sampler with a proof, compared with the exact distribution in tests; the difference is "
                "in delta",
            ),
            Statement("Nobody can guess the noise", Voucher.ASSUMED, RANDOMNESS),
        ]

    def rests_on_clip(self, how: str) -> list[Statement]:
        """That nobody contributes more than C; `how` it is known."""
        nobody = f"No {self.unit} contributes {'an' if self.what == 'update' else 'a'} {self.what} longer than C"
        if self.adaptive_clip is None:
            return [Statement(f"{nobody} = {self.privacy.clip:g}", Voucher.TESTED, how)]
        return [
            Statement(f"{nobody} of that {self.turn}, indicator included", Voucher.TESTED, how),
            Statement(
                "A clipping norm that is chosen from earlier sums has no further cost",
                Voucher.TESTED,
                f"noise is in proportion to C: in whole numbers every {self.turn} has the same largest norm and the "
                "same noise",
            ),
        ]

    def rests_on_others(self) -> list[Statement]:
        colluders, party = self.shares.colluders, self.party
        return [
            Statement(
                f"No more than {in_words(colluders)} of the {party}s in a sum "
                + ("works" if colluders == 1 else "work")
                + " against the others, or leaks or leaves out noise",
                Voucher.ASSUMED,
                "nobody can check from outside that an organisation's machine adds its noise; section 1 shows what "
                "more failures would cost",
            ),
            Statement(
                f"Nobody sees a {party}'s upload without its masks",
                Voucher.TESTED,
                "the protocol's promise: specified, attacked in tests, and explored exhaustively for small rosters",
            ),
            Statement(
                "Nobody breaks X25519 and ML-KEM-768 together, AES-256, SHA-256 or Ed25519",
                Voucher.ASSUMED,
                "the masks and all signatures rest on them",
            ),
        ]

    def most_moved(self, parties: int) -> str:
        times = over(parties * self.study.magnitude // self.privacy.grid)
        return (
            f"One {self.party} can move every number by over {times} times a {self.unit}'s limit: no limit in practice."
        )
