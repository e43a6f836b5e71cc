"""Runs the audits of all builds, and reports on them.

Every way of training is audited: a distributed step, over everybody and over sampled patients; updates of nodes that
are a unit each; local steps, without and with sampling. The confidence is that of all bounds for real builds holding
together: the risk is divided equally among them. At 1 - 10^-6 a bound above the theory is not an accident that a
repetition would clear up, but a defect.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from audits.privacy import bounds
from audits.privacy.bounds import Scores
from audits.privacy.builds import (
    HALVED_NOISE,
    REAL,
    UNCLIPPED,
    UNSAMPLED,
    UNSAMPLED_LOCALLY,
    WEAKENED,
    WEAKENED_LOCALLY,
    Build,
)
from audits.privacy.sessions import observe
from audits.privacy.settings import Mode, Setting
from protocols.parameters import CohortRules
from secfed.files.figures import scientific


@dataclass(frozen=True, slots=True)
class Audit:
    """One setting, and the builds to audit in it: the real one first."""

    setting: Setting
    builds: tuple[Build, ...]


_EIGHT = CohortRules(roster_size=8, colluders=1, tolerated_dropouts=1, minimum=7)
"""Six honest survivors: six canaries in a round, because each has to be a node."""
AUDITS = (
    Audit(Setting(sessions=12), (REAL, *WEAKENED)),
    Audit(Setting(sampling_rate=0.5, sessions=4), (REAL, UNSAMPLED)),
    Audit(
        Setting(mode=Mode.UPDATE, rules=_EIGHT, noise_multiplier=0.5, canaries=6, sessions=100),
        (REAL, HALVED_NOISE, UNCLIPPED),
    ),
    Audit(Setting(mode=Mode.LOCAL, noise_multiplier=1.4142, steps=2, sessions=8), (REAL, *WEAKENED_LOCALLY)),
    Audit(Setting(mode=Mode.LOCAL, sampling_rate=0.5, sessions=4), (REAL, UNSAMPLED_LOCALLY)),
)
RISK = 1e-6
"""The chance that any bound for a real build is above the truth."""
GUESSES_SHARE = 20
"""There is a guess for one canary in this many: about the best share for the sharper of the two bounds that count
guesses."""
_BUILD_WIDTH = 24
_BOUND_WIDTH = 13


@dataclass(frozen=True, slots=True)
class Bounds:
    """Lower bounds on epsilon, which hold together."""

    one_run: float
    """Steinke, Nasr and Jagielski 2023."""
    f_dp: float
    """Mahloujifar, Melis and Chaudhuri 2024."""
    error_rates: float
    """From error rates at thresholds; with q = 1 a bound on the mu of GDP."""

    @property
    def highest(self) -> float:
        return max(self.one_run, self.f_dp, self.error_rates)


@dataclass(frozen=True, slots=True)
class Audited:
    """One build in one setting, and the findings."""

    setting: Setting
    build: Build
    bounds: Bounds

    @property
    def theory(self) -> float:
        """The epsilon that the build claims."""
        return self.setting.epsilon

    @property
    def flagged(self) -> bool:
        """Whether the theory is refuted."""
        return self.bounds.highest > self.theory

    @property
    def as_it_should_be(self) -> bool:
        """Whether a build with a defect is flagged, or the real one is not."""
        return self.flagged != (self.build is REAL)


def lower_bounds(scores: Scores, sampling_rate: float, delta: float, risk: float) -> Bounds:
    """All three bounds for one sum, at equal parts of the risk."""
    each = risk / 3
    guessed = bounds.guesses(scores, 2 * (scores.values.size // (2 * GUESSES_SHARE)))
    return Bounds(
        bounds.one_run(guessed, sampling_rate, delta, each),
        bounds.f_dp(guessed, sampling_rate, delta, each),
        bounds.error_rates(scores, sampling_rate, delta, each),
    )


def audit_all(audit: Audit, risk: float) -> Iterator[Audited]:
    """Audit builds one after another, and yield each when it is done.

    Args:
        audit: which.
        risk: the chance that one of a build's bounds is above the truth.
    """
    setting = audit.setting
    for build in audit.builds:
        found = lower_bounds(observe(setting, build), setting.sampling_rate, setting.delta, risk)
        yield Audited(setting, build, found)


def heading(setting: Setting) -> str:
    """The lines above the rows: the claim, and the possible bounds."""
    names = "".join(f"{name:>{_BOUND_WIDTH}}" for name in ("one run", "f-DP", _error_rates_name(setting)))
    figures = (
        f"q = {setting.sampling_rate:g}, sigma = {setting.noise_multiplier:g}, T = {setting.steps}, seen by "
        f"{setting.seen_by}: epsilon {setting.epsilon:.2f} at delta {scientific(setting.delta)}"
    )
    lines = [f"{setting.mode.value}: {figures}"]
    if not setting.gaussian:
        lines.append(
            "no bound on GDP: with sampling, the sum is not Gaussian; its error rates are held against its own curve"
        )
    if setting.mode is Mode.UPDATE:
        lines.append(
            f"a round has {setting.canaries} canaries, one a node: too few for the bounds from guesses to get far"
        )
    lines.append(
        f"{f'{setting.canaries * setting.sessions:,} canaries':{_BUILD_WIDTH}}{names}  smallest epsilon not rejected"
    )
    return "\n".join(lines)


def row(audited: Audited) -> str:
    """One build as a line for a terminal."""
    found = audited.bounds
    figures = "".join(f"{bound:>{_BOUND_WIDTH}.2f}" for bound in (found.one_run, found.f_dp, found.error_rates))
    verdict = "flagged" if audited.flagged else "below theory"
    return f"{audited.build.name:{_BUILD_WIDTH}}{figures}  {verdict if audited.as_it_should_be else verdict.upper()}"


def closing_words(all_of_them: Sequence[Audited]) -> str:
    """The result, in one line."""
    weakened = [each for each in all_of_them if each.build is not REAL]
    refuted = any(each.flagged for each in all_of_them if each.build is REAL)
    found = sum(each.flagged for each in weakened)
    return (
        f"real build: {'THE THEORY IS REFUTED' if refuted else 'no bound is above the theory'}, at confidence "
        f"1 - {scientific(RISK)}; {len(weakened)} builds with a defect: {found} flagged"
    )


def as_json(all_of_them: Sequence[Audited]) -> str:
    """One JSON object, with an entry in `audits` for each mode and setting."""
    settings = list(dict.fromkeys(each.setting for each in all_of_them))
    tables = [_table([each for each in all_of_them if each.setting == setting]) for setting in settings]
    refuted = any(table["flagged"] for table in tables)
    return json.dumps({"confidence": 1 - RISK, "flagged": refuted, "audits": tables}, indent=2)


def _table(audited: Sequence[Audited]) -> dict[str, Any]:
    """The real build's figures, how they were found, and an entry per build with a defect."""
    real = next(each for each in audited if each.build is REAL)
    setting = real.setting
    return {
        "mode": setting.mode.value,
        "seen_by": setting.seen_by,
        "epsilon_theory": real.theory,
        "delta": setting.delta,
        "bounds": _bounds(real),
        "flagged": real.flagged,
        "weakened": [
            {"build": each.build.name, "what": each.build.what, "bounds": _bounds(each), "flagged": each.flagged}
            for each in audited
            if each.build is not REAL
        ],
        "setting": {
            "nodes": setting.rules.roster_size,
            "quorum": setting.quorum,
            "colluders": len(setting.colluding),
            "noise_multiplier": setting.noise_multiplier,
            "sampling_rate": setting.sampling_rate,
            "steps": setting.steps,
            "canaries": setting.canaries * setting.sessions,
            "sessions": setting.sessions,
        },
    }


def _bounds(audited: Audited) -> dict[str, float]:
    found = audited.bounds
    name = "gdp" if audited.setting.gaussian else "error_rates"
    return {"one_run": found.one_run, "f_dp": found.f_dp, name: found.error_rates}


def _error_rates_name(setting: Setting) -> str:
    return "GDP" if setting.gaussian else "error rates"
