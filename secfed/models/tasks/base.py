"""What a kind of task is to the programs that train: how rows become records, records tensors, and what is measured.

No torch at module level: a node reads its records before it loads a model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from secfed.models.data.records import needed_of
from secfed.models.data.rows import Row
from secfed.study.base import ModelError
from secfed.study.tasks import TaskTable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dp.sampling import Patients

TableT = TypeVar("TableT", bound=TaskTable)
RecordT = TypeVar("RecordT")
_ANOTHER = "Choose another base: docs/models.md lists the architectures that work"


@dataclass(frozen=True, slots=True)
class Reading:
    """What the tokenizer makes of one record, within the length that the model reads."""

    tokens: Sequence[int]
    """Without those that the tokenizer adds to every text."""
    cut: bool
    """Whether the record is longer than the model reads."""
    learnt: bool = True
    """Whether there is anything in it to learn."""


class Kind(ABC, Generic[TableT, RecordT]):
    """One kind of task, with a study's table and number of tokens."""

    auto_class: ClassVar[str]
    """The class of transformers that loads a base with the head for it."""
    peft_task: ClassVar[str]
    """PEFT's name for it."""
    head: ClassVar[str]
    """What is trained beside LoRA, as the end of a sentence; empty where nothing is."""

    def __init__(self, table: TableT, max_length: int) -> None:
        """
        Args:
            table: the study's.
            max_length: tokens of every record, from the study.
        """
        self.table = table
        self.max_length = max_length
        self.places = {name: place for place, name in enumerate(table.classes)}
        """From a class's name to its number."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in order; none where tokens are written."""
        return self.table.classes

    @property
    @abstractmethod
    def purpose(self) -> str:
        """What a base is loaded for, in a few words."""

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns that are read, each once; the first says whose a record is."""
        return needed_of(self.table)

    # From rows to tensors.

    @abstractmethod
    def record_of(self, row: Row) -> RecordT:
        """The record that a row describes. Raises BadRow where it describes none."""

    @abstractmethod
    def content(self, record: RecordT) -> tuple[str, tuple[int, ...]]:
        """A record's text, and the labels in it, each once: for figures about a file (`secfed.node.data_check`)."""

    @abstractmethod
    def readings(self, records: Sequence[RecordT], tokenizer: Any) -> Iterator[Reading]:
        """What the tokenizer makes of every record."""

    @abstractmethod
    def tensors(self, records: Sequence[RecordT], tokenizer: Any) -> tuple[dict[str, Tensor], Tensor]:
        """Inputs of the model, each of shape (records, max_length), and labels: (records,) or (records, positions).

        A record's rows depend on that record alone.
        """

    @abstractmethod
    def made_up(self, vocabulary: int, padding: int) -> Patients:
        """Records that nobody has, of the shape of this task's: for the guards (`dp.guards.check_step`)."""

    # The model.

    def check_config(self, base: Path, config: Mapping[str, Any]) -> None:
        """Refuse a base whose configuration shows that it cannot do this. Raises ModelError."""
        if config.get("is_encoder_decoder"):
            raise ModelError(
                f"the model in {base} is an encoder and a decoder ({config.get('model_type')}), which "
                f"{self.why_no_pair}",
                _ANOTHER,
            )

    why_no_pair: ClassVar[str] = "reads and writes in two parts: no test has tried that for this kind of task"
    """Why a pair of encoder and decoder is refused."""

    def check_tokenizer(self, base: Path, tokenizer: Any) -> None:
        """Refuse a tokenizer with which this cannot be done. Raises ModelError."""

    def wrapped(self, module: nn.Module) -> nn.Module:
        """What `dp` calls: gives `.logits` of the labels' shape and classes. The module itself where it does so."""
        return module

    def check_model(self, module: nn.Module, made_up: Patients) -> None:
        """Refuse a model that does not do what this kind of task needs, by trying made-up records. Raises ModelError.

        Args:
            module: what `wrapped` gave.
            made_up: what `made_up` gave.
        """

    @abstractmethod
    def measured(self, module: nn.Module, held_out: Patients) -> dict[str, float]:
        """Every figure of `table.figures` on these records, by its name."""
