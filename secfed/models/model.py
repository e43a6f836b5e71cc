"""Base models and LoRA adapters: what is loaded, what is trained, and the flat vector that travels.

A base model is a folder in the transformers layout whose digest the study pins. Weights are read from safetensors
only, and code that comes with a model is never run. The adapter is LoRA (Hu et al. 2021) by PEFT, plus whatever the
base's files do not hold: a head for the study's labels, and for writing text nothing. `ffa` is FFA-LoRA (Sun et al.
2024): A stays at a shared orthonormal start and B is trained, so that averaging updates is exact and noise enters
linearly.

Every node computes the same start from the study's seed, bit for bit, on any processor: from keyed uniform words,
with additions, multiplications, divisions and square roots in IEEE double precision and exactly rounded sums, and
without BLAS, LAPACK or elementary functions, whose last bits differ between machines.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, TaskType, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from dp.sampling import Patients
from secfed.files.whole import READABLE, write_whole
from secfed.models.adapter import ADAPTER_FILES, loading_arguments, orthonormal_rows, uniform
from secfed.models.bases import check_length, load_base, parts_to_save, quiet
from secfed.models.data import encode
from secfed.models.libraries import OWN_CODE_ONLY
from secfed.models.tasks.base import Kind
from secfed.models.tasks.chat import pinned_template
from secfed.study.base import ModelError, base_digest, files_digest

HEAD_SCALE = 2.0**-5
"""Weights that the base lacks start uniform in [-1/32, 1/32): a standard deviation of .018, as BERT's .02."""
_TOKENS_MIN = 0.9
"""Of a model's embeddings, those that its tokenizer uses at least: the others round their number up for speed."""
_STRANGE = "fever \u2603 \U0001f9ec"
"""Characters that few vocabularies have."""
_LAYER = re.compile(r"\.([0-9]+)\.")


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """The adapter's shape, from the study."""

    rank: int
    """Rows of A and columns of B."""
    alpha: float
    """B A is scaled by alpha / rank."""
    targets: tuple[str, ...]
    """Name endings of the linear layers that get an adapter."""
    layers: tuple[int, ...] | None
    """Which transformer layers; all when None."""
    variant: Literal["ffa", "ab"]
    """`ffa` trains B only; `ab` trains both."""


def adapter_digest(folder: Path) -> str:
    """The digest of a saved adapter: over its configuration and weights.

    Raises:
        ModelError: a file of the adapter is missing.
    """
    for name in ADAPTER_FILES:
        if not (folder / name).is_file():
            raise ModelError(f"{folder} is no adapter: it has no {name}", "Name a folder that a run has written")
    return files_digest(folder, ADAPTER_FILES)


def load_tokenizer(base: Path, vocabulary: int) -> Any:
    """The base model's tokenizer, with a padding token.

    Args:
        base: the model's folder.
        vocabulary: the model has embeddings for token ids below this.

    Raises:
        ModelError: the folder has none, one with a token that the model does not have, which would stop a round at the
            first record with it, or one that lacks most of the model's.
    """
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(base, **OWN_CODE_ONLY)
    except Exception as error:  # a library's, of which nobody has a list
        raise ModelError(
            f"the tokenizer in {base} cannot be loaded ({type(error).__name__})",
            "Check that the folder holds the model's tokenizer files",
        ) from error
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= vocabulary:
        raise ModelError(
            f"the tokenizer in {base} has a token {largest}, and the model has embeddings for {vocabulary} only",
            "Use the tokenizer that belongs to the model",
        )
    if tokenizer.pad_token_id is None:  # decoders are published so
        if tokenizer.eos_token_id is None:
            raise ModelError(
                f"the tokenizer in {base} has neither a padding token nor an end-of-text token",
                "Name a pad_token in its tokenizer_config.json, and have a study with the new digest signed",
            )
        tokenizer.pad_token = tokenizer.eos_token  # never in a record: what looks like it in a note is text
    tokenizer.chat_template = pinned_template(base)  # and no file beside it, which the digest does not cover
    tokens = len(set(tokenizer.get_vocab().values()))
    if tokens < _TOKENS_MIN * vocabulary:
        # What transformers makes up for a folder without tokenizer files has a handful of tokens, and no error.
        raise ModelError(
            f"the tokenizer in {base} has {tokens} tokens, and the model has embeddings for {vocabulary}: it would "
            "read texts as unknown tokens",
            "Copy the model's own tokenizer files into its folder, and have a study with the new digest signed",
        )
    try:
        list(encode([_STRANGE], tokenizer, 8))
    except Exception as error:  # its library has one type for all of them
        raise ModelError(
            f"the tokenizer in {base} fails at a text with a character that it does not know ({type(error).__name__})",
            "Name its token for unknown text (unk_token) as its vocabulary has it, and have a study with the new "
            "digest signed",
        ) from error
    return tokenizer


class AdapterModel:
    """A base model with its adapter. Only the adapter changes, and it is one flat vector to everybody else."""

    def __init__(self, peft: PeftModel, lora: LoraSettings, kind: Kind[Any, Any]) -> None:
        self.module: nn.Module = kind.wrapped(peft)
        """In evaluation mode; called as `module(input_ids=..., attention_mask=...)`, gives `.logits` where the task has
        labels. The PEFT model itself, or around it what chooses positions."""
        self.kind = kind
        self._peft = peft
        self._lora = lora
        self._trained = sorted(
            ((name, parameter) for name, parameter in peft.named_parameters() if parameter.requires_grad),
            key=lambda item: item[0],
        )

    @property
    def layout(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Name and shape of each trained tensor, sorted by name: the order of the flat vector, row-major."""
        return tuple((name, tuple(parameter.shape)) for name, parameter in self._trained)

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """What a state is written into, by its name in `module`."""
        ours = {id(parameter) for _, parameter in self._trained}  # frozen since or not: the guards are to see that
        return {name: parameter for name, parameter in self.module.named_parameters() if id(parameter) in ours}

    @property
    def vocabulary(self) -> int:
        """Token ids are below this."""
        embeddings = self._peft.get_input_embeddings()
        return len(cast(Tensor, embeddings.weight))

    @property
    def padding(self) -> int | None:
        """The token that stands for nothing; None where neither config nor tokenizer names one."""
        token: int | None = self._text_config.pad_token_id
        return token

    def check_length(self, base: Path, max_length: int) -> None:
        """Refuse records of more tokens than the model in this folder reads. Raises ModelError."""
        check_length(base, self._peft, self._text_config, max_length)

    def pad_with(self, token: int) -> None:
        """Have the model take this token, which its tokenizer pads with, for padding. Decoders look for it: they
        classify by a record's last token."""
        self._text_config.pad_token_id = token

    @property
    def _text_config(self) -> Any:
        return cast(Any, self._peft).config.get_text_config()

    @property
    def dimension(self) -> int:
        """d: how many numbers are trained."""
        return sum(parameter.numel() for _, parameter in self._trained)

    def get_state(self) -> NDArray[np.float32]:
        """A copy of the trained numbers, float32, of shape (dimension,), in the order of `layout`."""
        return np.concatenate([parameter.detach().cpu().numpy().ravel() for _, parameter in self._trained])

    def set_state(self, vector: NDArray[np.float32]) -> None:
        """Put these numbers into the model; the inverse of `get_state`.

        Raises:
            ValueError: the vector has another length, another type, or a number that is not finite.
        """
        if vector.shape != (self.dimension,) or vector.dtype != np.float32:
            raise ValueError(f"a state is {self.dimension} float32 numbers, not {vector.dtype} of shape {vector.shape}")
        if not np.isfinite(vector).all():
            raise ValueError("a state holds finite numbers only")
        start = 0
        with torch.no_grad():
            for _, parameter in self._trained:
                part = vector[start : start + parameter.numel()].reshape(parameter.shape)
                parameter.copy_(torch.from_numpy(part.copy()))
                start += parameter.numel()

    def measured(self, held_out: Patients) -> dict[str, float]:
        """The task's figures on these records, by their names."""
        return self.kind.measured(self.module, held_out)

    def describe(self) -> str:
        """One true line about what is trained."""
        total = sum(parameter.numel() for parameter in self.module.parameters())
        adapted = len({name.rsplit(".lora_", 1)[0] for name, _ in self._trained if ".lora_" in name})
        what = "B" if self._lora.variant == "ffa" else "A and B"
        return (
            f"{self.dimension:,} of {total:,} parameters are trained ({self.dimension / total:.2%}): "
            f"LoRA rank {self._lora.rank} ({what}) on {adapted} linear layers{self.kind.head}"
        )

    def save(self, folder: Path, base_name: str) -> None:
        """Write the adapter in PEFT's layout; the same state gives the same bytes.

        Args:
            folder: created where it does not exist.
            base_name: what the study calls the base model; no path of this machine gets into the files.
        """
        folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = get_peft_model_state_dict(self._peft, save_embedding_layers=False)
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            folder / "adapter_model.safetensors",
            metadata={"format": "pt"},
        )
        config = self._peft.peft_config["default"].to_dict()
        config |= {
            "base_model_name_or_path": base_name,
            "inference_mode": True,
            "auto_mapping": loading_arguments(self.kind.classes, self.padding),
        }
        text = json.dumps(config, indent=2, sort_keys=True, default=sorted)
        write_whole(folder / "adapter_config.json", f"{text}\n".encode(), READABLE)


def load_model(base: Path, kind: Kind[Any, Any], lora: LoraSettings, seed: bytes) -> AdapterModel:
    """The base model with a fresh adapter, the same at every node.

    Args:
        base: the model's folder; check its digest first.
        kind: what it is to do.
        lora: the adapter's shape.
        seed: 32 public bytes; everything that the base's files do not give comes from them.

    Raises:
        ModelError: the folder does not hold a usable model, or the adapter does not fit it.
    """
    base_digest(base)  # the files are there, and the weights are safetensors
    model, missing = load_base(base, kind)
    with torch.no_grad():
        for name in missing:
            parameter = model.get_parameter(name)
            parameter.copy_(_small_uniform(seed, name, tuple(parameter.shape)))
    config = LoraConfig(
        task_type=TaskType[kind.peft_task],
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        target_modules=list(lora.targets),
        layers_to_transform=None if lora.layers is None else list(lora.layers),
        modules_to_save=parts_to_save(missing),
    )
    try:
        with quiet():
            module = get_peft_model(model, config)
    except ValueError as error:
        raise ModelError(
            f"no layer of the base model matches lora.targets = {list(lora.targets)}",
            "Name endings of its linear layers, and layers that it has",
        ) from error
    _check_layers(module, lora)
    _initialise_lora(module, lora, seed)
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    module.eval()
    return AdapterModel(module, lora, kind)


def _check_layers(module: nn.Module, lora: LoraSettings) -> None:
    """Refuse layers that get no adapter: PEFT passes over those that the model does not have."""
    adapted = [name for name, _ in module.named_parameters() if ".lora_A." in name]
    reached = {int(number) for name in adapted for number in _LAYER.findall(name)}
    lost = sorted(set(lora.layers or ()) - reached)
    if lost:
        raise ModelError(
            f"lora.layers names layers that get no adapter: {', '.join(map(str, lost))}",
            "Name layers that the base model has, counted from 0",
        )


def _initialise_lora(module: nn.Module, lora: LoraSettings, seed: bytes) -> None:
    """A orthonormal from the seed, B zero; under FFA, A frozen."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if ".lora_" in name and parameter.dim() != 2:
                where = name.partition(".lora_")[0].rpartition(".")[2]
                raise ModelError(
                    f"lora.targets names {where}, which is a convolution and no linear layer",
                    "Name linear layers of the base model; docs/models.md lists those of many architectures",
                )
            if ".lora_A." in name:
                rank, inputs = parameter.shape
                if rank > inputs:
                    raise ModelError(f"lora.rank = {rank} is above the {inputs} inputs of a layer", "Lower the rank")
                parameter.copy_(torch.from_numpy(orthonormal_rows(seed, name, rank, inputs)))
                parameter.requires_grad = lora.variant == "ab"
            elif ".lora_B." in name:
                parameter.zero_()


def _small_uniform(seed: bytes, name: str, shape: tuple[int, ...]) -> Tensor:
    """A start for a parameter that the base lacks: small uniform weights; the scales of a norm one, biases zero."""
    if len(shape) < 2:
        return torch.ones(shape) if name.endswith(".weight") else torch.zeros(shape)
    return torch.from_numpy((uniform(seed, name, math.prod(shape)) * HEAD_SCALE).reshape(shape))
