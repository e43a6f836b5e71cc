"""The audit of all builds, and what is said about it.

The confidence is that all bounds of one build hold together: each of the three may be wrong with a third of the rest.
At 1 - 10^-6 a bound above the theory is no accident that a repetition would clear up. It is a defect.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from audits.privacy import bounds
from audits.privacy.bounds import Scores
from audits.privacy.builds import REAL, WEAKENED, Build
from audits.privacy.sessions import Setting, observe
from secfed.reports.risk import scientific

SETTING = Setting()
RISK = 1e-6
"""The chance that any of a build's bounds is above the truth."""
GUESSES_SHARE = 20
"""One canary in so many is guessed at: about the best share for the sharper of the two bounds that count guesses."""
_BUILD_WIDTH = 24
_BOUND_WIDTH = 10


@dataclass(frozen=True, slots=True)
class Bounds:
    """Lower bounds on epsilon, which hold together."""

    one_run: float
    """Steinke, Nasr and Jagielski 2023."""
    f_dp: float
    """Mahloujifar, Melis and Chaudhuri 2024."""
    gdp: float
    """From error rates, for Gaussian mechanisms."""

    @property
    def highest(self) -> float:
        return max(self.one_run, self.f_dp, self.gdp)


@dataclass(frozen=True, slots=True)
class Audited:
    """One build and what was found."""

    build: Build
    theory: float
    """Epsilon that the build claims."""
    bounds: Bounds

    @property
    def flagged(self) -> bool:
        """Whether the theory is refuted."""
        return self.bounds.highest > self.theory

    @property
    def as_it_should_be(self) -> bool:
        """A build with a defect is flagged, and the real one is not."""
        return self.flagged != (self.build is REAL)


def lower_bounds(scores: Scores, delta: float, risk: float = RISK) -> Bounds:
    """All three bounds for one sum over everybody (q = 1)."""
    each = risk / 3
    guessed = bounds.guesses(scores, 2 * (scores.values.size // (2 * GUESSES_SHARE)))
    return Bounds(
        bounds.one_run(guessed, 1.0, delta, each),
        bounds.f_dp(guessed, 1.0, delta, each),
        bounds.gdp(scores, delta, each),
    )


def audit_all(setting: Setting, builds: Sequence[Build] = (REAL, *WEAKENED)) -> Iterator[Audited]:
    """Audit builds one after another, and yield each when it is done."""
    for build in builds:
        yield Audited(build, setting.epsilon, lower_bounds(observe(setting, build), setting.delta))


def heading(setting: Setting) -> str:
    """The lines above the rows: what is claimed."""
    rules = setting.rules
    claim = (
        f"theory: epsilon {setting.epsilon:.2f} at delta {scientific(setting.delta)} against the aggregator and "
        f"{rules.colluders} of {rules.roster_size} nodes, for one sum at noise multiplier "
        f"{float(setting.noise_multiplier):g}\n"
        f"lower bounds from {setting.canaries * setting.sessions:,} canaries, confidence 1 - {scientific(RISK)}:"
    )
    names = "".join(f"{name:>{_BOUND_WIDTH}}" for name in ("one run", "f-DP", "GDP"))
    return f"{claim}\n{'build':{_BUILD_WIDTH}}{names}  verdict"


def row(audited: Audited) -> str:
    """One build as a line for a terminal."""
    found = audited.bounds
    figures = "".join(f"{bound:>{_BOUND_WIDTH}.2f}" for bound in (found.one_run, found.f_dp, found.gdp))
    verdict = "flagged" if audited.flagged else "below theory"
    return f"{audited.build.name:{_BUILD_WIDTH}}{figures}  {verdict if audited.as_it_should_be else verdict.upper()}"


def closing_words(all_of_them: Sequence[Audited]) -> str:
    """What it comes to, in one line."""
    real = [each for each in all_of_them if each.build is REAL]
    weakened = [each for each in all_of_them if each.build is not REAL]
    holds = not any(each.flagged for each in real)
    found = sum(each.flagged for each in weakened)
    return (
        f"real build: {'no bound is above the theory' if holds else 'THE THEORY IS REFUTED'}; "
        f"{len(weakened)} builds with a defect: {found} flagged"
    )


def as_json(setting: Setting, all_of_them: Sequence[Audited]) -> str:
    """One JSON object: the real build's figures, how they were found, and an entry per build with a defect."""
    rules = setting.rules
    real = next(each for each in all_of_them if each.build is REAL)
    table = {
        "epsilon_theory": real.theory,
        "delta": setting.delta,
        "confidence": 1 - RISK,
        "bounds": asdict(real.bounds),
        "flagged": real.flagged,
        "weakened": [
            {
                "build": each.build.name,
                "what": each.build.what,
                "bounds": asdict(each.bounds),
                "flagged": each.flagged,
            }
            for each in all_of_them
            if each.build is not REAL
        ],
        "setting": {
            "nodes": rules.roster_size,
            "quorum": setting.quorum,
            "colluders": rules.colluders,
            "noise_multiplier": float(setting.noise_multiplier),
            "sampling_rate": setting.sampling_rate,
            "steps": 1,
            "most_records": setting.most_records,
            "canaries": setting.canaries * setting.sessions,
            "sessions": setting.sessions,
        },
    }
    return json.dumps(table, indent=2)
