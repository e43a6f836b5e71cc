"""Errors of differential privacy. Their texts say what happened and what to do, and never contain patient data."""

from __future__ import annotations


class DPError(Exception):
    """Base of everything this package raises on purpose."""


class UnsuitableModel(DPError):
    """The model mixes patients, or has nothing to train, so it has no private gradient."""


class ImpossibleTarget(DPError):
    """No reasonable noise multiplier gives the requested epsilon and delta."""


class OutOfRange(DPError, ValueError):
    """A figure that the accountant cannot use: a probability above 1, no noise, a delta that promises nothing."""


class DeltaTooLarge(OutOfRange):
    """Delta is above 1/(10 N): it would allow a patient's whole record to be published."""


class SamplerTooCoarse(DPError):
    """The noise sampler's distance from the exact distribution takes too much of delta."""


class BatchesTooSmall(DPError):
    """The chance is too large that a step draws more patients than its padded batches hold."""


class GridTooCoarse(DPError):
    """Noise on this grid is too far from the Gaussian that the accountant assumes."""


class LedgerError(DPError):
    """Base of the ledger's refusals. Nothing was written."""


class LedgerUnavailable(LedgerError):
    """The file cannot be used now: its disk is full, or another process holds it. The file itself is intact."""


class AnotherFormat(LedgerError):
    """Another version of this software wrote the ledger.

    Args:
        what: which ledger, and how it differs.
        step: what its owner should do.
    """

    def __init__(self, what: str, step: str) -> None:
        super().__init__(f"{what}. {step}")
        self.what = what
        self.step = step


class NoGrant(LedgerError):
    """No privacy budget was granted yet."""


class GrantDiffers(LedgerError):
    """Another budget was granted before; a population's budget is granted once."""


class NotDisjoint(LedgerError):
    """A second population at one node, and nobody attests that it shares no patient with the first."""


class BudgetExceeded(LedgerError):
    """The study would spend more than is left."""


class AlreadyReserved(LedgerError):
    """This study holds a reservation; a second run of it would spend twice."""


class NotReserved(LedgerError):
    """This study reserved no budget, or withdrew it, or has used all the rounds it reserved."""


class AlreadyCommitted(LedgerError):
    """This round's budget is spent: a round is attempted once. Or this study's is, and cannot be withdrawn."""


class NotCommitted(LedgerError):
    """The round to release was never committed."""


class AlreadyReleased(LedgerError):
    """This round's receipt is already recorded."""


class LedgerCorrupt(LedgerError):
    """The ledger on disk was changed, damaged or signed by another; the text names the first bad entry."""
