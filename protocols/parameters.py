"""The numbers of a round: every node derives them from the signed study, and never accepts them from the aggregator.

Notation (PROTOCOL, "Parameters"): N nodes in the roster, n of them in this round, f tolerated dropouts, c colluders,
t quorum and sharing threshold, n_min the study's smallest cohort, D vector length, b ring bits.

Why t depends on N and not on n: an aggregator may show two halves of the roster two different cohorts in one round.
With t > (N + c) / 2, any two quorums share an honest node, and an honest node signs once per round.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocols.errors import CohortTooSmall, ParameterError

RING_BITS_MIN = 8
RING_BITS_MAX = 60
ROSTER_MIN = 3
ROSTER_MAX = 1000
DIMENSION_MAX = 1 << 28
HONEST_MIN = 2
"""With fewer honest survivors the sum would be one honest node's own update."""


@dataclass(frozen=True, slots=True)
class CohortRules:
    """The rules of the study and of this site's policy on who must take part. Raises ParameterError for impossible
    ones."""

    roster_size: int
    """N."""
    colluders: int
    """c: how many nodes may collude with the aggregator."""
    tolerated_dropouts: int
    """f: how many nodes may drop out of a full cohort."""
    minimum: int
    """n_min: the study's smallest cohort, at every stage."""
    site_minimum: int = 0
    """This site's own smallest cohort. The site can refuse because of it, but it never enters a derivation."""
    site_honest_minimum: int = HONEST_MIN
    """This site's own smallest number of honest survivors."""

    def __post_init__(self) -> None:
        _check_rules(self)

    def quorum(self, cohort_size: int) -> int:
        """t for a round with n = `cohort_size`: max(n - f, floor((N + c) / 2) + 1).

        Raises:
            CohortTooSmall: t > n, so no quorum could ever form.
        """
        threshold = max(cohort_size - self.tolerated_dropouts, self._majority())
        if threshold > cohort_size:
            raise CohortTooSmall(
                f"a cohort of {cohort_size} cannot reach the quorum of {threshold} that a roster of "
                f"{self.roster_size} with {self.colluders} colluders needs",
                sender=None,
            )
        return threshold

    def smallest_legal(self, cohort_size: int) -> int:
        """The fewest survivors with which a round of this cohort may go on, at any stage."""
        return max(
            self.quorum(cohort_size),
            self.minimum,
            self.site_minimum,
            self.colluders + max(HONEST_MIN, self.site_honest_minimum),
        )

    def really_tolerated(self, cohort_size: int) -> int:
        """How many nodes of the cohort may drop out: n - max(t, n_min), less if the site's minima are larger. Show
        people this number."""
        return cohort_size - self.smallest_legal(cohort_size)

    @property
    def fewest_survivors(self) -> int:
        """The fewest survivors of any legal round, whatever its cohort: max(floor((N + c) / 2) + 1, n_min, c + 2).

        It is the same at every site: a site's own minima can make it refuse, but never enter a derivation.
        """
        return max(self._majority(), self.minimum, self.colluders + HONEST_MIN)

    def check_stage(self, name: str, size: int, cohort_size: int) -> None:
        """Check that a cohort of `cohort_size` may go on with `size` nodes. Called at every stage.

        Raises:
            CohortTooSmall: below the quorum, the study's minimum, or the site's minima.
        """
        smallest = self.smallest_legal(cohort_size)
        if size < smallest:
            raise CohortTooSmall(f"{name} has {size} nodes where at least {smallest} are needed", sender=None)

    def _majority(self) -> int:
        return (self.roster_size + self.colluders) // 2 + 1


def _check_rules(rules: CohortRules) -> None:
    total, colluders = rules.roster_size, rules.colluders
    if not ROSTER_MIN <= total <= ROSTER_MAX:
        raise ParameterError(f"a roster has {ROSTER_MIN} to {ROSTER_MAX} nodes, not {total}")
    if colluders < 0 or rules.tolerated_dropouts < 0:
        raise ParameterError("colluders and tolerated dropouts are not negative: set them to 0 or more")
    most_colluders = max(c for c in range(total) if (total + c) // 2 + 1 <= total and c + HONEST_MIN <= total)
    if colluders > most_colluders:
        raise ParameterError(
            f"c = {colluders} colluders do not fit a roster of N = {total}: at most c = {most_colluders} do, "
            f"or enrol more nodes"
        )
    most_dropouts = total - ((total + colluders) // 2 + 1)
    if rules.tolerated_dropouts > most_dropouts:
        raise ParameterError(
            f"f = {rules.tolerated_dropouts} dropouts cannot be tolerated with N = {total} and c = {colluders}: "
            f"at most f = {most_dropouts} can, or lower c, or enrol more nodes"
        )
    # The range is never empty: N - f is at least floor((N + c) / 2) + 1, which is at least c + 2 because c + 2 is at
    # most N.
    least, most = colluders + HONEST_MIN, total - rules.tolerated_dropouts
    if not least <= rules.minimum <= most:
        raise ParameterError(
            f"n_min = {rules.minimum} does not fit N = {total}, f = {rules.tolerated_dropouts}, c = {colluders}: "
            f"choose n_min from {least} to {most}"
        )
    if max(rules.site_minimum, rules.site_honest_minimum + colluders) > total:
        raise ParameterError(f"this site's policy demands a cohort larger than the roster of {total}: it cannot join")


@dataclass(frozen=True, slots=True)
class OverflowCertificate:
    """The proof that the sum cannot wrap: N * magnitude + noise tail < 2^(b - 1), in integers.

    Raises ParameterError when it could, or when no ring of at most 60 bits is large enough.
    """

    roster_size: int
    """N: the worst case, because b must be known before the cohort is."""
    magnitude: int
    """The largest absolute value a node may encode in one element."""
    noise_tail: int = 0
    """A bound on the summed noise of one element that fails with probability 2^-40 for the whole vector."""

    def __post_init__(self) -> None:
        if self.roster_size < 1 or self.magnitude < 1 or self.noise_tail < 0:
            raise ParameterError("a roster and a magnitude are positive, and a noise tail is not negative")
        if self._needed() > RING_BITS_MAX:
            raise ParameterError(
                f"the sum needs a ring of {self._needed()} bits and at most {RING_BITS_MAX} are allowed: "
                f"lower the encoding's bound or its fraction bits, or the largest nominal weight"
            )

    @property
    def ring_bits(self) -> int:
        """b: the smallest from 8 to 60 that holds the sum."""
        return max(RING_BITS_MIN, self._needed())

    @property
    def worst_sum(self) -> int:
        """The largest absolute value that an element of the sum can take."""
        return self.roster_size * self.magnitude + self.noise_tail

    def _needed(self) -> int:
        return self.worst_sum.bit_length() + 1


@dataclass(frozen=True, slots=True)
class RoundShape:
    """The shape of the vectors in one round."""

    dimension: int
    """D: elements of the vector."""
    ring_bits: int
    """b: the ring is Z_{2^b}; b bits per element on the wire."""

    def __post_init__(self) -> None:
        if not 1 <= self.dimension <= DIMENSION_MAX:
            raise ParameterError(f"a vector has 1 to {DIMENSION_MAX} elements, not {self.dimension}")
        if not RING_BITS_MIN <= self.ring_bits <= RING_BITS_MAX:
            raise ParameterError(f"a ring has {RING_BITS_MIN} to {RING_BITS_MAX} bits, not {self.ring_bits}")

    @property
    def packed_bytes(self) -> int:
        """Bytes of a packed vector: ceil(D * b / 8)."""
        return (self.dimension * self.ring_bits + 7) // 8
