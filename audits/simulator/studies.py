"""The base study of audits and tests: small and legal. Each audit or test changes what it examines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from crypto.identity import Identity
from protocols.parameters import CohortRules
from secfed.node.policy import Policy
from secfed.study.manifest import Study

BASE_MODEL = "sha256:" + "5" * 64


def roster_of(identities: Iterable[bytes], patients: Iterable[int]) -> list[dict[str, Any]]:
    """A roster's values.

    Args:
        identities: public keys, in roster order.
        patients: nominal numbers, one for each identity.
    """
    return [
        {"name": f"hospital-{node}", "identity": key.hex(), "patients": count}
        for node, (key, count) in enumerate(zip(identities, patients, strict=True))
    ]


def study_values(roster: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """The values of a study in local mode with this roster, and with some changes (`changed`)."""
    values: dict[str, Any] = {
        "name": "simulated",
        "purpose": "To be tried out",
        "model": {"base": "model", "digest": BASE_MODEL, "max_length": 8},
        "task": {"labels": ["no", "yes"]},
        "lora": {"rank": 2, "alpha": 4, "targets": ["query"]},
        "algorithm": {"rounds": 6, "local": {"steps": 1, "learning_rate": 0.01}},
        "privacy": {
            "mode": "local",
            "epsilon": 8.0,
            "delta": 1e-5,
            "noise_multiplier": 0.7,
            "sampling_rate": 0.1,
            "clip": 1.0,
        },
        "cohort": {"colluders": 1, "tolerated_dropouts": 1, "minimum": 3},
        "roster": roster,
    }
    return changed(values, changes)


def changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A study's values with changes: a table is merged, any other value is replaced."""
    found = dict(values)
    for name, change in changes.items():
        found[name] = {**found[name], **change} if isinstance(change, Mapping) else change
    return found


def study_from(values: Mapping[str, Any]) -> Study:
    """The study with these values. Raises ValidationError if they do not make a study."""
    return Study.model_validate_json(json.dumps(values))


def study_of(keys: list[Identity], rules: CohortRules, rounds: int, **algorithm: Any) -> Study:
    """A study of these nodes, with a formula as model, and with FedAvg unless `algorithm` names another strategy."""
    return study_from(
        study_values(
            roster_of((key.public.raw for key in keys), [100] * len(keys)),
            name="audited",
            purpose="To be attacked",
            algorithm={"rounds": rounds, **algorithm},
            cohort=cohort_of(rules),
        )
    )


def cohort_of(rules: CohortRules) -> dict[str, Any]:
    """The table of a study that has these rules."""
    return {name: getattr(rules, name) for name in ("colluders", "tolerated_dropouts", "minimum")}


def policy_of(minimum: int) -> Policy:
    """A policy that allows such a study."""
    return Policy.model_validate_json(
        json.dumps(
            {
                "cohort": {"minimum": minimum},
                "budget": {"population": "audited", "patients": 100, "epsilon": 8.0, "delta": 1e-5},
                "allow": {"base_models": [BASE_MODEL]},
            }
        )
    )
