"""What an adapter is, as far as no torch is needed for it: its files, its names, and its start.

The start follows from the study alone, bit for bit, on any processor: from keyed uniform words, with additions,
multiplications, divisions and square roots in IEEE double precision and exactly rounded sums, and without BLAS, LAPACK
or elementary functions, whose last bits differ between machines. `secfed.models.model` trains the adapter;
`secfed.verify` checks a saved one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crypto.kdf import digest
from crypto.randomness import expand_public_seed

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
ADAPTER_FILES = (CONFIG_FILE, WEIGHTS_FILE)
_A, _SAVED_A = ".lora_A.default.", ".lora_A."


def loading_arguments(labels: Sequence[str], padding: int | None) -> dict[str, Any]:
    """What a base model has to be loaded with for this adapter: the study's labels, and what pads a text.

    It stands in the adapter's configuration as `auto_mapping`, which PEFT keeps as it is and reads without a warning.

    Args:
        labels: the study's classes, in order; none where it has text written.
        padding: the token that stands for nothing, if there is one.
    """
    if not labels:
        return {"pad_token_id": padding}
    return {
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
        "pad_token_id": padding,
    }


def saved_name(name: str) -> str:
    """What PEFT calls a parameter of the model in an adapter's file: without the adapter's own name, `default`."""
    for inside, saved in ((".modules_to_save.default.", "."), (_A, _SAVED_A), (".lora_B.default.", ".lora_B.")):
        name = name.replace(inside, saved)
    return name


def frozen_start(study: bytes, saved: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A as it stands in an adapter's file under FFA-LoRA, where it never moves.

    Args:
        study: the study's digest.
        saved: the tensor's name in the file.
        shape: rank and inputs of the layer.

    Raises:
        ValueError: no frozen A has this name or shape.
    """
    if not saved.endswith(f"{_SAVED_A}weight") or len(shape) != 2 or not 1 <= shape[0] <= shape[1]:
        raise ValueError(f"{saved} is no frozen tensor of an adapter")
    return orthonormal_rows(first_adapter_seed(study), saved.replace(_SAVED_A, _A), *shape)


def first_adapter_seed(study: bytes) -> bytes:
    """The 32 public bytes from which everything comes that the base model's files do not give.

    Args:
        study: the study's digest.
    """
    return digest("first adapter", study)


def orthonormal_rows(seed: bytes, label: str, rows: int, columns: int) -> NDArray[np.float32]:
    """`rows` orthonormal vectors of length `columns`, the same bits on every processor: the start of A.

    Modified Gram-Schmidt (Golub and Van Loan, section 5.2) on uniform vectors. Each dot product is an exactly
    rounded sum (`math.fsum`) of separately rounded products: no fused multiply-add, no order of summation.
    """
    vectors = uniform(seed, label, rows * columns).reshape(rows, columns)
    for index in range(rows):
        for earlier in range(index):
            vectors[index] -= math.fsum(vectors[index] * vectors[earlier]) * vectors[earlier]
        vectors[index] /= math.sqrt(math.fsum(vectors[index] * vectors[index]))
    return vectors.astype(np.float32)


def uniform(seed: bytes, label: str, count: int) -> NDArray[np.float64]:
    """Uniform numbers in [-1, 1) with 53 bits; every operation here is exact."""
    words = expand_public_seed(seed, label, count) >> np.uint64(11)
    return words.astype(np.float64) * 2.0**-52 - 1.0
