"""The audits of all builds, and what is said about them.

There are two: of a sum over everybody, with most canaries and most defects, and of a sum over sampled patients. The
confidence is that all bounds for real builds hold together: the risk is divided equally among them. At 1 - 10^-6 a
bound above the theory is no accident that a repetition would clear up. It is a defect.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from audits.privacy import bounds
from audits.privacy.bounds import Scores
from audits.privacy.builds import REAL, UNSAMPLED, WEAKENED, Build
from audits.privacy.sessions import Setting, observe
from secfed.figures import scientific


@dataclass(frozen=True, slots=True)
class Audit:
    """One setting, and the builds that are audited in it: the real one first."""

    setting: Setting
    builds: tuple[Build, ...]


AUDITS = (
    Audit(Setting(), (REAL, *WEAKENED)),
    Audit(Setting(sampling_rate=0.5, sessions=4), (REAL, UNSAMPLED)),
)
RISK = 1e-6
"""The chance that any bound for a real build is above the truth."""
GUESSES_SHARE = 20
"""One canary in so many is guessed at: about the best share for the sharper of the two bounds that count guesses."""
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
    """One build in one setting, and what was found."""

    setting: Setting
    build: Build
    bounds: Bounds

    @property
    def theory(self) -> float:
        """Epsilon that the build claims."""
        return self.setting.epsilon

    @property
    def flagged(self) -> bool:
        """Whether the theory is refuted."""
        return self.bounds.highest > self.theory

    @property
    def as_it_should_be(self) -> bool:
        """A build with a defect is flagged, and the real one is not."""
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
    """The lines above the rows: what is claimed."""
    rules = setting.rules
    sampled = "everybody" if setting.sampling_rate == 1 else f"patients sampled at {setting.sampling_rate:g}"
    names = "".join(f"{name:>{_BOUND_WIDTH}}" for name in ("one run", "f-DP", _error_rates_name(setting)))
    return (
        f"a sum over {sampled}, seen by the aggregator and {rules.colluders} of {rules.roster_size} nodes: epsilon "
        f"{setting.epsilon:.2f} at delta {scientific(setting.delta)}\n"
        f"{f'{setting.canaries * setting.sessions:,} canaries':{_BUILD_WIDTH}}{names}  smallest epsilon not rejected"
    )


def row(audited: Audited) -> str:
    """One build as a line for a terminal."""
    found = audited.bounds
    figures = "".join(f"{bound:>{_BOUND_WIDTH}.2f}" for bound in (found.one_run, found.f_dp, found.error_rates))
    verdict = "flagged" if audited.flagged else "below theory"
    return f"{audited.build.name:{_BUILD_WIDTH}}{figures}  {verdict if audited.as_it_should_be else verdict.upper()}"


def closing_words(all_of_them: Sequence[Audited]) -> str:
    """What it comes to, in one line."""
    weakened = [each for each in all_of_them if each.build is not REAL]
    refuted = any(each.flagged for each in all_of_them if each.build is REAL)
    found = sum(each.flagged for each in weakened)
    return (
        f"real build: {'THE THEORY IS REFUTED' if refuted else 'no bound is above the theory'}, at confidence "
        f"1 - {scientific(RISK)}; {len(weakened)} builds with a defect: {found} flagged"
    )


def as_json(all_of_them: Sequence[Audited]) -> str:
    """One JSON object: the sum over everybody at the top, the others in `sampled`."""
    settings = list(dict.fromkeys(each.setting for each in all_of_them))
    tables = [_table([each for each in all_of_them if each.setting == setting]) for setting in settings]
    return json.dumps(tables[0] | {"sampled": tables[1:]}, indent=2)


def _table(audited: Sequence[Audited]) -> dict[str, Any]:
    """The real build's figures, how they were found, and an entry per build with a defect."""
    real = next(each for each in audited if each.build is REAL)
    setting = real.setting
    return {
        "epsilon_theory": real.theory,
        "delta": setting.delta,
        "confidence": 1 - RISK,
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
            "colluders": setting.rules.colluders,
            "noise_multiplier": float(setting.noise_multiplier),
            "sampling_rate": setting.sampling_rate,
            "steps": 1,
            "most_records": setting.most_records,
            "canaries": setting.canaries * setting.sessions,
            "sessions": setting.sessions,
        },
    }


def _bounds(audited: Audited) -> dict[str, float]:
    found = audited.bounds
    name = "gdp" if audited.setting.sampling_rate == 1 else "error_rates"
    return {"one_run": found.one_run, "f_dp": found.f_dp, name: found.error_rates}


def _error_rates_name(setting: Setting) -> str:
    return "GDP" if setting.sampling_rate == 1 else "error rates"
