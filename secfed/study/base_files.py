"""Whether the files of a base model are whole, before a library is asked to load them. No torch.

What people copy is often not what they meant to: a pointer of large-file storage in place of the weights, a download
that was cut off, weights that were made smaller. Model libraries end on each of these with an error of their own, or
with none. Here each is refused in words, with what to fetch.
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
"""The files of a base model that decide what it computes. Others, such as a README, may change freely."""
_POINTERS = (b"version https://git-lfs", b"/annex/objects/", b"../.git/annex/")
_LABELS_MAX = 1 << 16
"""Classes that a config may count: a library makes a name for each, before anybody asks how many the study has."""
_JSON_BYTES_MAX = 1 << 28
"""A tokenizer's file may hold some ten million bytes."""
_FETCH = "Fetch the model's folder again from where it is published, and pin its digest"


class BrokenBase(UserError):
    """A file of the base model is not what it should be."""


def check_base_files(folder: Path) -> dict[str, Any]:
    """Look at every file of a base model that a library would read. Gives its configuration.

    Args:
        folder: holds a config.json and safetensors weights (`secfed.study.base.base_digest`).

    Raises:
        BrokenBase: a file is a pointer, cut off, or in another form than its name says; or the weights are quantised.
    """
    if (folder / "adapter_config.json").exists():  # the library would load what it names instead
        raise BrokenBase(
            f"{folder} holds an adapter of a model (adapter_config.json), and not a base model alone",
            "Name the folder of the model that it was trained on; or merge the adapter into it, and pin that digest",
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
    _check_config(folder, config)
    return config


def _refuse_pointer(path: Path) -> None:
    with _readable(path), path.open("rb") as file:
        start = file.read(100)
    if start.startswith(_POINTERS):
        raise BrokenBase(
            f"{path} is the pointer of a large-file storage, and not the file itself",
            "Fetch the files themselves, as `git lfs pull` does, and pin the digest of the folder with them",
        )


def _read_object(path: Path) -> dict[str, Any]:
    with _readable(path):
        data = path.read_bytes() if path.stat().st_size <= _JSON_BYTES_MAX else b""
    try:
        values = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise BrokenBase(f"{path} is cut off, or is no JSON in UTF-8 at all", _FETCH) from error
    if not isinstance(values, dict):
        raise BrokenBase(f"{path} holds no JSON object", _FETCH)
    return values


def _check_weights(path: Path) -> None:
    """The header can be read, and the file is as long as it says."""
    from safetensors import SafetensorError, safe_open

    try:
        with _readable(path), safe_open(path, framework="numpy") as file:
            names = file.keys()
    except (SafetensorError, ValueError) as error:
        raise BrokenBase(f"{path} is cut off, or holds no safetensors weights at all", _FETCH) from error
    if not names:
        raise BrokenBase(f"{path} holds no weights", _FETCH)


def _check_shards(folder: Path, name: str, values: dict[str, Any]) -> None:
    parts = values.get("weight_map")
    if not isinstance(parts, dict):
        raise BrokenBase(f"{folder / name} does not say in which file which weights are", _FETCH)
    for part in sorted({str(part) for part in parts.values()}):
        if "/" in part or not (folder / part).is_file():
            raise BrokenBase(f"{folder / name} names a file that is not there: {part}", _FETCH)


def _check_config(folder: Path, config: dict[str, Any]) -> None:
    if "quantization_config" in config:
        method = config["quantization_config"]
        named = method.get("quant_method") if isinstance(method, dict) else None
        raise BrokenBase(
            f"the model in {folder} is quantised ({named if isinstance(named, str) else 'in an unknown way'})",
            "Take the model that it was made from: an adapter is trained on whole weights here",
        )
    if not isinstance(config.get("model_type"), str):
        raise BrokenBase(f"{folder / 'config.json'} names no model_type", _FETCH)
    classes = config.get("num_labels", 0)
    if not isinstance(classes, int) or classes > _LABELS_MAX:
        raise BrokenBase(f"{folder / 'config.json'} counts classes that no model has (num_labels)", _FETCH)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what the disk says into words."""
    try:
        yield
    except OSError as error:
        raise BrokenBase(
            f"{path} cannot be read ({error.strerror or error})", "Check its permissions, and its disk"
        ) from error
