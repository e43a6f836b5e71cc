"""Checks the saved adapter: every number follows from the chain of sums, or is one that never changes.

Trained tensors must equal those of the last state bit for bit. Under FFA-LoRA the file also holds the frozen halves,
which are computed again from the study. The parts of the configuration that scale or replace the adapter, or name its
classes, are compared with the study. For the rest, and for which base model is loaded, there is only the digest in
`summary.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secfed.models.adapter import ADAPTER_FILES, CONFIG_FILE, WEIGHTS_FILE, frozen_start, loading_arguments, saved_name
from secfed.reports.folder import ADAPTER
from secfed.rounds.chain import Chain
from secfed.study.base import files_digest
from secfed.verify.evidence import Broken, agree, read_file, read_json

WEIGHTS = f"{ADAPTER}/{WEIGHTS_FILE}"
CONFIG = f"{ADAPTER}/{CONFIG_FILE}"


def check_adapter(folder: Path, chain: Chain) -> str:
    """Check the adapter against the chain's last state.

    Returns:
        The digest of the adapter's files.

    Raises:
        Broken: a tensor is missing, unknown, or differs in any bit; or the configuration is not the study's.
    """
    tensors = _read_tensors(folder)
    start = 0
    for name, shape in chain.layout:
        saved = saved_name(name)
        if saved not in tensors:
            raise Broken(WEIGHTS, f"{saved} is missing")
        size = int(np.prod(shape))
        _compare(saved, tensors.pop(saved), chain.state.adapter[start : start + size].reshape(shape))
        start += size
    for saved, tensor in tensors.items():
        if tensor.ndim == 2 and len(tensor) > chain.study.lora.rank:  # computing a start takes the square of its rows
            raise Broken(WEIGHTS, f"{saved} has more rows than the adapter's rank, {chain.study.lora.rank}")
        try:
            expected = frozen_start(chain.study.digest, saved, tensor.shape)
        except ValueError as error:
            raise Broken(WEIGHTS, str(error)) from error
        _compare(saved, tensor, expected)
    _check_config(folder, chain)
    return files_digest(folder / ADAPTER, ADAPTER_FILES)


def _read_tensors(folder: Path) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return dict(load(read_file(folder, WEIGHTS)))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise Broken(WEIGHTS, "not a safetensors file of numbers") from error


def _compare(name: str, tensor: NDArray[Any], expected: NDArray[np.float32]) -> None:
    if tensor.dtype != np.float32 or tensor.shape != expected.shape or tensor.tobytes() != expected.tobytes():
        raise Broken(WEIGHTS, f"{name} is not what the study and the sums lead to")


def _check_config(folder: Path, chain: Chain) -> None:
    lora = chain.study.lora
    expected: Mapping[str, Any] = {
        "peft_type": "LORA",
        "base_model_name_or_path": chain.study.model.base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": False,
        "use_dora": False,
    }
    config = read_json(folder, CONFIG)
    for name, value in expected.items():
        agree(CONFIG, config, name, value)
    # Users pass these on to transformers, so only the study's names for the classes and a padding token may be here.
    given = config.get("auto_mapping")
    padding = given.get("pad_token_id") if isinstance(given, dict) else None
    if type(padding) not in (int, type(None)) or given != loading_arguments(chain.study.task.classes, padding):
        raise Broken(CONFIG, "auto_mapping must hold the study's labels and a padding token")
