"""Base models of many architectures, loaded for a study's task; what cannot do it is refused.

The study's labels win over names that a base brings: they number the classes, and they travel with the adapter. What
docs/models.md says of each architecture is what the tests find here.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from secfed.models.libraries import OWN_CODE_ONLY
from secfed.models.tasks.base import Kind
from secfed.study.base import ModelError
from secfed.study.base_files import check_base_files

_SAVED_BY_PEFT = ("classifier", "score")  # the usual heads, which PEFT adds by itself
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")
"""What configs call the number of positions; most answer to the first name, whatever their file says."""
_POSITION_TABLE = "position_embeddings"
_NO_NAME = re.compile(r"LABEL_[0-9]+")


def load_base(base: Path, kind: Kind[Any, Any]) -> tuple[nn.Module, list[str]]:
    """The base model in float32, and the names of the parameters that its files do not hold.

    Args:
        base: the folder, which holds a config and safetensors.
        kind: what it is to do.

    Raises:
        ModelError: it is no model that can be trained for that.
    """
    config = check_base_files(base)
    kind.check_config(base, config)
    labels = kind.classes
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: place for place, label in enumerate(labels)}}
    try:
        with quiet():
            model, report = getattr(transformers, kind.auto_class).from_pretrained(
                base,
                **(names if labels else {}),
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                **OWN_CODE_ONLY,
            )
    except Exception as error:  # a library's, of which nobody has a list
        raise ModelError(
            f"the model in {base} cannot be loaded for {kind.purpose} ({type(error).__name__})",
            "Use a model that transformers knows, without a head for other labels",
        ) from error
    missing = sorted(report["missing_keys"])
    _check_whole(base, model, missing, may_lack_head=bool(labels))
    if labels:
        _order_head(base, model, missing, _own_labels(config), labels)
    return model, missing


def check_length(base: Path, model: nn.Module, config: Any, max_length: int) -> None:
    """Refuse records of more tokens than a model has positions for.

    Where positions are rotated or relative, nothing ends at the number that the config gives; but the model was never
    taught any beyond it, and a study spends its budget on what it can learn. So that number is a limit, too.

    Args:
        base: the folder, for the error's text.
        model: as it was loaded.
        config: of its text part.
        max_length: tokens per record, from the study.

    Raises:
        ModelError: it has fewer.
    """
    found = (getattr(config, name, None) for name in _POSITIONS)
    counts = [count for count in found if isinstance(count, int) and count > 0]
    if not counts:
        return
    most = counts[0] - max(
        (_before_the_first(part) for name, part in model.named_modules() if _POSITION_TABLE in name), default=0
    )
    if max_length > most:
        raise ModelError(
            f"the model in {base} reads {most} tokens of a record, and the study's max_length is {max_length}",
            f"Have a study signed with model.max_length = {most} or less, or choose a base for longer texts",
        )


def _before_the_first(part: nn.Module) -> int:
    """Rows of a table of positions that no token of a text gets: RoBERTa and its kin count from behind padding's."""
    unused = getattr(part, "padding_idx", None) if isinstance(part, nn.Embedding) else None
    return 0 if unused is None else unused + 1


def parts_to_save(missing: Sequence[str]) -> list[str]:
    """The modules that PEFT is to save whole with the adapter, beside those that it always saves.

    What the base's files lack belongs to the adapter, or else nobody could load it again. A head in parts, such as
    RoBERTa's, is saved as one: its parts named as well would be copied within the copy, and the copies never used.
    """
    modules = {name.rpartition(".")[0] for name in missing}
    return sorted(name for name in modules if not any(part in _SAVED_BY_PEFT for part in name.split(".")))


@contextmanager
def quiet() -> Iterator[None]:
    """Without progress bars, and without warnings about what we expect: a missing head."""
    level, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # PEFT still asks transformers under the old name.
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
            yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()


def _check_whole(base: Path, model: nn.Module, missing: Sequence[str], may_lack_head: bool) -> None:
    """Refuse weights that lack a part of the model itself: it would start from small random numbers, at every site.

    A head for labels is new where a base is published without one, and so is a pooler, which models for filling in gaps
    lack. The head that writes text is the model's own.

    Raises:
        ModelError: with the first of them.
    """
    own = f"{model.base_model_prefix}."
    lost = [name for name in missing if not may_lack_head or (name.startswith(own) and "pooler" not in name)]
    if lost:
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        raise ModelError(
            f"the weights in {base} lack {lost[0]}{more}, which the model's config.json asks for",
            "Fetch the model's folder again from where it is published, and pin its digest",
        )


def _own_labels(config: dict[str, Any]) -> list[str]:
    """The names that the base's config has for its classes; none where it has only numbers for them."""
    named = config.get("id2label")
    if not isinstance(named, dict) or not all(str(number).isdecimal() for number in named):
        return []
    names = [str(named[number]) for number in sorted(named, key=int)]
    return [] if all(_NO_NAME.fullmatch(name) for name in names) else names


def _order_head(base: Path, model: nn.Module, missing: Sequence[str], own: list[str], labels: Sequence[str]) -> None:
    """Put the classes of a head that the base brings into the study's order.

    Raises:
        ModelError: it is a head for other labels.
    """
    prefix = f"{model.base_model_prefix}."
    heads = [
        (name, part)
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear) and part.out_features == len(labels) and not name.startswith(prefix)
    ]
    if not own or own == list(labels) or not heads or f"{heads[-1][0]}.weight" in missing:
        return
    if sorted(own) != sorted(labels):
        raise ModelError(
            f"the model in {base} has a head for {len(own)} labels of other names than the study's",
            "Save it without its head, as AutoModel, and have a study with that folder's digest signed",
        )
    order = torch.tensor([own.index(label) for label in labels])
    with torch.no_grad():
        for parameter in heads[-1][1].parameters():
            parameter.copy_(parameter[order].clone())
