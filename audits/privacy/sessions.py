"""Sums over canaries through the code that hospitals run, and what a coalition of colluding nodes sees of them.

A session is one step of distributed training: `dp.distributed.private_sum` at every node (coins, choice of records,
grouping by patient, clipping, rounding, noise), then a whole round of `protocols.client` and `protocols.aggregator`
(tags, masks, a dropout, survivors, unmasking, checked sum, receipt). As many nodes drop out as may, so that exactly t
are left and the noise is the nominal one, which is all that the theory may count on.

The coalition is the aggregator and c nodes. It knows the sum, and what its own nodes put into it, noise included; the
difference is what the honest nodes' shares of noise have to hide. A canary's score is its coordinate of that.

Several sessions, each over canaries of its own, say more than one long vector does for the same time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray

from audits.privacy.bounds import Scores
from audits.privacy.builds import Build
from audits.privacy.canaries import CanaryModel, canary_patients
from crypto.discrete_gaussian import SAMPLER_ERROR
from crypto.identity import Identity
from crypto.kdf import digest
from crypto.randomness import NoiseSecret
from dp import distributed
from dp.accounting import event_epsilon
from dp.delta_terms import GRID, DistributedNoise
from dp.events import NoisedSums, NoiseShares
from dp.step_plan import StepPlan, batches_needed, noise_share, noise_tail
from protocols.aggregator import Aggregator, Stage
from protocols.client import Client
from protocols.events import InputWanted, Send, SumPublished
from protocols.parameters import CohortRules, OverflowCertificate, RoundShape
from protocols.session import Context, SessionConfig

_ROUND = 1
_STUDY = digest("privacy audit")


@dataclass(frozen=True, slots=True)
class Setting:
    """What is audited: a study of one step, and how many canaries look at it."""

    rules: CohortRules = CohortRules(roster_size=5, colluders=1, tolerated_dropouts=1, minimum=4)
    """N = 5, c = 1, f = 1: the quorum is 4, of whom 3 are honest."""
    noise_multiplier: Fraction = Fraction(1)
    """sigma, nominal."""
    sampling_rate: float = 1.0
    """q."""
    clip: float = 1.0
    """C."""
    most_records: int = 4
    """G. Every canary has two records more."""
    canaries: int = 2000
    """In one session; the length of its vector."""
    sessions: int = 16
    physical_batch: int = 64
    delta: float = 1e-5

    @property
    def quorum(self) -> int:
        """t of a full cohort."""
        return self.rules.quorum(self.rules.roster_size)

    @property
    def leaving(self) -> frozenset[int]:
        """The nodes that drop out before they upload: the first ones."""
        return frozenset(range(self.rules.roster_size - self.quorum))

    @property
    def colluding(self) -> frozenset[int]:
        """The coalition's nodes: the last ones."""
        return frozenset(range(self.rules.roster_size - self.rules.colluders, self.rules.roster_size))

    @property
    def honest(self) -> tuple[int, ...]:
        """The honest survivors, who have the canaries."""
        return tuple(sorted(set(range(self.rules.roster_size)) - self.leaving - self.colluding))

    @property
    def event(self) -> NoisedSums:
        """What the accountant counts for one canary: a single sum."""
        return NoisedSums(self.sampling_rate, float(self.noise_multiplier), 1)

    @property
    def noise(self) -> DistributedNoise:
        """How the accountant takes the noise to be made."""
        shares = NoiseShares(self.quorum, self.rules.colluders)
        return DistributedNoise(shares, self.rules.roster_size, self.canaries, sampler_error=SAMPLER_ERROR)

    @property
    def epsilon(self) -> float:
        """The theory: epsilon at delta against the coalition, as it would stand in a study."""
        return event_epsilon(self.event, self.delta, self.noise)

    def plan(self) -> StepPlan:
        """Every node's step."""
        patients = -(-self.canaries // len(self.honest)) + 1
        return StepPlan(
            self.sampling_rate,
            self.clip,
            GRID,
            self.most_records,
            self.physical_batch,
            batches_needed(patients, self.sampling_rate, self.most_records, self.physical_batch),
            noise_share(self.noise_multiplier, GRID, self.quorum, self.rules.colluders),
        )


def observe(setting: Setting, build: Build) -> Scores:
    """Run all sessions of a build and score every canary as the coalition would."""
    present, values = [], []
    with _one_thread():
        for number in range(setting.sessions):
            coins = NoiseSecret().stream("canaries").uniform_words(setting.canaries)
            present.append(coins >> np.uint64(63) == 1)
            values.append(_coalition_view(setting, build, present[-1], number) / GRID)
    return Scores(np.concatenate(present), np.concatenate(values))


@contextmanager
def _one_thread() -> Iterator[None]:
    """On a model as small as this, threads that wait for each other cost ten times as much as they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _coalition_view(setting: Setting, build: Build, present: NDArray[np.bool_], number: int) -> NDArray[np.int64]:
    """The sum of one session without what the colluders put in, in steps of the grid, of shape (canaries,)."""
    plan = setting.plan()
    model = CanaryModel(setting.canaries, setting.clip)
    owners = np.resize(setting.honest, setting.canaries)
    vectors = {}
    for node in sorted({*setting.honest, *setting.colluding}):
        own = np.flatnonzero(present & (owners == node))
        patients = canary_patients(own.tolist(), setting.most_records + 2)
        secret = NoiseSecret()
        with build.defect(first=node == setting.honest[0]):
            vectors[node] = distributed.private_sum(model, patients, plan, secret, _ROUND).vector
        secret.wipe()
    total = _published(setting, plan, vectors, number)
    return total - sum(vectors[node] for node in setting.colluding)


def _published(
    setting: Setting, plan: StepPlan, vectors: dict[int, NDArray[np.int64]], number: int
) -> NDArray[np.int64]:
    """The sum that a colluding node is shown at the end of a whole round."""
    config, identities = _session(setting, plan, number)
    clients = [Client(config, index, identity, ledger_sequence=0) for index, identity in enumerate(identities)]
    aggregator = Aggregator(config)
    requests = aggregator.open()
    seen = {}
    while True:
        stage = aggregator.stage
        if stage is Stage.CLOSE:
            aggregator.expect_state(digest("next"))
        for node, request in requests.items():
            if node in setting.leaving and stage is Stage.MASKED_INPUT:
                continue
            answer = b""
            for event in clients[node].receive(request):
                match event:
                    case Send(data):
                        answer = data
                    case InputWanted():
                        answer = clients[node].submit(vectors[node])
                    case SumPublished(_, total):
                        seen[node] = total
                        answer = clients[node].close(digest("next"))
            aggregator.receive(node, answer)
        if stage is Stage.CLOSE:
            aggregator.receipt()
            return seen[max(setting.colluding)]
        requests = aggregator.advance()


def _session(setting: Setting, plan: StepPlan, number: int) -> tuple[SessionConfig, list[Identity]]:
    """A round of its own, in a ring with room for the largest sum."""
    nodes = setting.rules.roster_size
    identities = [Identity(digest("privacy audit", bytes([node]))) for node in range(nodes)]
    magnitude = plan.most_patients * GRID + noise_tail(plan.noise_variance, nodes * setting.canaries)
    ring_bits = OverflowCertificate(nodes, magnitude).ring_bits
    state = digest("privacy audit", number.to_bytes(4, "big"))
    context = Context(_STUDY, _ROUND, _STUDY, digest("base"), state, RoundShape(setting.canaries, ring_bits))
    return SessionConfig(setting.rules, tuple(each.public for each in identities), context, magnitude), identities
