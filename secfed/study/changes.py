"""Changes a study and writes it to a file (`Study.changed`). No value gets in unchecked.

The changed values go into the study's tables, and the whole is read and checked as if it came from a file. Noise that
was calibrated for the old values is calibrated again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dp.errors import DPError
from secfed.errors import Problems, UserError
from secfed.files.toml import parse_toml, toml_file
from secfed.files.whole import READABLE, write_whole
from secfed.study.account import event_of, noise_of, smallest_noise
from secfed.study.algorithms import STRATEGIES
from secfed.study.manifest import Study
from secfed.study.mechanisms import MODES
from secfed.study.problems import place_and_reason
from secfed.study.sections import Section
from secfed.study.tasks import DEFAULT_KIND, KINDS

_KINDS: Mapping[str, tuple[str, Mapping[str, type[Section]]]] = {
    "task": ("kind", KINDS),
    "algorithm": ("strategy", STRATEGIES),
    "privacy": ("mode", MODES),
}
"""Tables with several kinds: the key that names the kind, and all kinds."""


def changed(study: Study, changes: Mapping[str, Any]) -> Study:
    """See `Study.changed`."""
    found = with_changes(study, changes)
    return found if names_noise(changes) or _promise(found) == _promise(study) else calibrated(found)


def names_noise(changes: Mapping[str, Any]) -> bool:
    """Whether a change sets the noise itself."""
    table = changes.get("privacy")
    return isinstance(table, Mapping) and table.get("noise_multiplier") is not None


def with_changes(study: Study, changes: Mapping[str, Any]) -> Study:
    """As `Study.changed`, with the noise as it is.

    Raises:
        UserError: with everything that is wrong.
    """
    values = values_of(study)
    for name, change in changes.items():
        if isinstance(change, Mapping) and isinstance(values.get(name), dict):
            values[name] = _merged(_of_its_kind(name, values[name], change), change)
        else:
            values = _merged(values, {name: change})
    try:
        text = json.dumps(values, allow_nan=False, default=_table)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"the change holds a value that a study cannot hold ({error})", "Use only text, numbers, lists and tables"
        ) from error
    try:
        return type(study).model_validate_json(text)
    except ValidationError as error:
        found = [place_and_reason(problem) for problem in error.errors()]
        told = [f"{'.'.join(map(str, place))}: {reason}" if place else reason for place, reason in found]
        raise Problems("the changed study", told, "Fix the change; the study itself did not change") from error


def calibrated(study: Study) -> Study:
    """The study with the smallest noise that keeps its promise.

    Raises:
        UserError: no noise keeps it.
    """
    try:
        noise = smallest_noise(study)
    except DPError as error:
        raise UserError(
            f"no noise keeps the promise of the changed study: {error}",
            "Use fewer rounds, a smaller sampling rate, or a larger epsilon",
        ) from error
    return with_changes(study, {"privacy": {"noise_multiplier": noise}})


def write_study(study: Study, path: Path) -> None:
    """Write a study as TOML that loads to the same digest. Replaces an existing file completely or not at all.

    Raises:
        UserError: the file cannot be written, or the study is too large for a file.
    """
    data = toml_file(values_of(study)).encode()
    parse_toml(data, path)
    try:
        write_whole(path, data, READABLE)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})", "Check its folder and permissions") from error


def values_of(study: Study) -> dict[str, Any]:
    """The study's tables as in a file, in JSON types."""
    found: dict[str, Any] = json.loads(json.dumps(study, default=_table))
    return found


def _table(value: object) -> dict[str, Any]:
    if isinstance(value, Section):
        return value.written()
    raise TypeError(f"a {type(value).__name__}")


def _of_its_kind(name: str, table: Mapping[str, Any], change: Mapping[str, Any]) -> Mapping[str, Any]:
    """What stays of a table: all of it, or if its kind changes, the keys that the new kind has, too."""
    chosen_by, kinds = _KINDS.get(name, ("", {}))
    asked = change.get(chosen_by)
    if not isinstance(asked, str) or asked == table.get(chosen_by, DEFAULT_KIND) or asked not in kinds:
        return table
    return {key: value for key, value in table.items() if key in kinds[asked].model_fields}


def _merged(table: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(table)
    for key, value in change.items():
        if value is None:
            found.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(found.get(key), dict):
            found[key] = _merged(found[key], value)
        else:
            found[key] = value
    return found


def _promise(study: Study) -> tuple[object, ...]:
    """Everything that decides the smallest noise."""
    event = replace(event_of(study), noise_multiplier=1.0)
    return study.privacy.epsilon, study.privacy.delta, event, noise_of(study)
