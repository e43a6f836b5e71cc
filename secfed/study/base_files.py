"""Checks that a base model's files are complete, before a library loads them. No torch.

People often copy the wrong thing: a Git LFS pointer instead of the weights, an incomplete download, quantised weights.
Model libraries report these with obscure errors, or not at all. Here each error says what is wrong and what to fetch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from secfed.errors import UserError

BASE_FILES = (
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
)
"""The files that decide what a base model computes. Other files, such as a README, may change freely."""
_POINTERS = (b"version https://git-lfs", b"/annex/objects/", b"../.git/annex/")
_LABELS_MAX = 1 << 16
"""The most classes that a config may claim: a library makes a name for each, whatever the study says."""
_JSON_BYTES_MAX = 1 << 28
"""A tokenizer's file can take some ten million bytes."""
_FETCH = "Fetch the model's folder again from where it is published, and pin its digest"


class BrokenBase(UserError):
    """A file of the base model is broken or has the wrong form."""


def check_base_files(folder: Path) -> dict[str, Any]:
    """Check every file of a base model that a library would read. Returns its configuration.

    Args:
        folder: holds a config.json and safetensors weights (`secfed.study.base.base_digest`).

    Raises:
        BrokenBase: a file is a pointer, is cut off, or is not what its name says; or the weights are quantised.
    """
    if (folder / "adapter_config.json").exists():  # the library would load the model that it names instead
        raise BrokenBase(
            f"{folder} holds an adapter (adapter_config.json), not only a base model",
            "Name the folder of the model that the adapter was trained on, or merge the adapter into that model "
            "and pin the new digest",
        )
    found = sorted({path for pattern in BASE_FILES for path in folder.glob(pattern) if path.is_file()})
    for path in found:
        _refuse_pointer(path)
    read = {path.name: _read_object(path) for path in found if path.suffix == ".json"}
    for path in found:
        if path.suffix == ".safetensors":
            _check_weights(path)
    for name, values in read.items():
        if name.endswith(".safetensors.index.json"):
            _check_shards(folder, name, values)
    config = read["config.json"]
    if "auto_map" in config:
        raise BrokenBase(f"the model in {folder} comes with code of its own, which is never run", "Choose another base")
    _check_config(folder, config)
    return config


def _refuse_pointer(path: Path) -> None:
    with _readable(path), path.open("rb") as file:
        start = file.read(100)
    if start.startswith(_POINTERS):
        raise BrokenBase(
            f"{path} is a Git LFS pointer, not the file itself",
            "Fetch the files, for example with `git lfs pull`, and pin the new digest of the folder",
        )


def _read_object(path: Path) -> dict[str, Any]:
    with _readable(path):
        data = path.read_bytes() if path.stat().st_size <= _JSON_BYTES_MAX else b""
    try:
        values = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise BrokenBase(f"{path} is cut off, or is not JSON in UTF-8", _FETCH) from error
    if not isinstance(values, dict):
        raise BrokenBase(f"{path} holds no JSON object", _FETCH)
    return values


def _check_weights(path: Path) -> None:
    """Check that the header can be read and gives the file's length."""
    from safetensors import SafetensorError, safe_open

    try:
        with _readable(path), safe_open(path, framework="numpy") as file:
            names = file.keys()
    except (SafetensorError, ValueError) as error:
        raise BrokenBase(f"{path} is cut off, or is not a safetensors file", _FETCH) from error
    if not names:
        raise BrokenBase(f"{path} holds no weights", _FETCH)


def _check_shards(folder: Path, name: str, values: dict[str, Any]) -> None:
    parts = values.get("weight_map")
    if not isinstance(parts, dict):
        raise BrokenBase(f"{folder / name} does not say which file holds which weights", _FETCH)
    for part in sorted({str(part) for part in parts.values()}):
        if "/" in part or not (folder / part).is_file():
            raise BrokenBase(f"{folder / name} names a missing file: {part}", _FETCH)


def _check_config(folder: Path, config: dict[str, Any]) -> None:
    if "quantization_config" in config:
        method = config["quantization_config"]
        named = method.get("quant_method") if isinstance(method, dict) else None
        raise BrokenBase(
            f"the model in {folder} is quantised ({named if isinstance(named, str) else 'in an unknown way'})",
            "Use the original model: adapters are trained on full-precision weights here",
        )
    if not isinstance(config.get("model_type"), str):
        raise BrokenBase(f"{folder / 'config.json'} names no model_type", _FETCH)
    classes = config.get("num_labels", 0)
    if not isinstance(classes, int) or classes > _LABELS_MAX:
        raise BrokenBase(f"{folder / 'config.json'} has an impossible number of classes (num_labels)", _FETCH)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn errors of the disk into errors for people."""
    try:
        yield
    except OSError as error:
        raise BrokenBase(
            f"{path} cannot be read ({error.strerror or error})", "Check its permissions and the disk"
        ) from error
