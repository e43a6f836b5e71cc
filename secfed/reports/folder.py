"""A run's folder: the names of its files, and the exact bytes of those that no other module defines.

    study.toml, signatures.json         what was agreed, and who signed it
    first_state.cbor                    where the model started; the first receipt names its digest
    receipts/NNNN.cbor, sums/NNNN.bin   what each round decided
    journal.jsonl                       what the aggregator remembers (`secfed.aggregator.journal`); no evidence
    adapter/                            the trained adapter, in PEFT layout
    ledgers/NAME.jsonl                  a copy of each site's ledger (`dp.ledger_copy`)
    summary.json, report.json, report.html

`secfed.engines.embedded.run` writes it, `secfed.verify` reads it. Every file that is evidence has one possible form for
its content, so that no byte of it can change unseen. No torch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from protocols.errors import ProtocolError
from protocols.parameters import DIMENSION_MAX
from protocols.wire import canonical, parse_canonical
from secfed.rounds.strategies import Layout, ModelState

STUDY = "study.toml"
FIRST_STATE = "first_state.cbor"
RECEIPTS, SUMS, LEDGERS, ADAPTER = "receipts", "sums", "ledgers", "adapter"
JOURNAL = "journal.jsonl"
SUMMARY = "summary.json"
REPORT, REPORT_PAGE = "report.json", "report.html"
_AXES_MAX = 8
"""More than any trained tensor has. NumPy allows at most 64; the product of many large sizes takes minutes."""


def receipt_file(round_number: int) -> str:
    return f"{RECEIPTS}/{round_number:04d}.cbor"


def sum_file(round_number: int) -> str:
    return f"{SUMS}/{round_number:04d}.bin"


def ledger_file(name: str) -> str:
    return f"{LEDGERS}/{name}.jsonl"


def first_state_bytes(layout: Layout, state: ModelState) -> bytes:
    """The bytes of `first_state.cbor`: canonical CBOR of the layout and the float32 numbers, little-endian.

    The first moments are not in it: they follow from the study.
    """
    names = [[name, list(shape)] for name, shape in layout]
    return canonical({"adapter": state.adapter.astype("<f4", copy=False).tobytes(), "layout": names})


def read_first_state(data: bytes) -> tuple[Layout, ModelState]:
    """The inverse of `first_state_bytes`: a state without moments.

    Raises:
        ValueError: these bytes are not what it writes.
    """
    try:
        value = parse_canonical(data, None)
    except ProtocolError as error:
        raise ValueError("not canonical CBOR") from error
    if not isinstance(value, dict) or set(value) != {"adapter", "layout"} or not isinstance(value["layout"], list):
        raise ValueError("not an adapter and its layout")
    layout = tuple(_tensor(entry) for entry in value["layout"])
    adapter = value["adapter"]
    if not isinstance(adapter, bytes) or len(adapter) != 4 * sum(math.prod(shape) for _, shape in layout):
        raise ValueError("not as many numbers as its layout has")
    return layout, ModelState(np.frombuffer(adapter, dtype="<f4").astype(np.float32))


def _tensor(entry: Any) -> tuple[str, tuple[int, ...]]:
    match entry:
        case [str(name), [*shape]] if len(shape) <= _AXES_MAX and all(
            type(size) is int and 1 <= size <= DIMENSION_MAX for size in shape
        ):
            return name, tuple(shape)
    raise ValueError("not a name and a shape in its layout")
