"""A language model from elsewhere becomes a base that a study can pin: a folder of safetensors, with its digest.

Sources are a GGUF file, which is taken out of its quantisation, a folder as transformers writes it, and a name on the
hub. The tokenizer is tried, its chat template goes where the digest covers it, and the licence is noted as the source
states it: nobody here judges it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from secfed.errors import UserError
from secfed.files.whole import check_new, whole_or_gone
from secfed.models.bases import quiet
from secfed.models.libraries import OWN_CODE_ONLY
from secfed.models.model import load_tokenizer
from secfed.study.base import ModelError, base_digest, hub_folder
from secfed.study.base_files import check_base_files

NOT_STATED = "not stated"
_CARD_BYTES_MAX = 1 << 20
_LICENCE = re.compile(r"^license(?:_name)?:\s*(\S.*)$", re.MULTILINE)
_BESIDE = ("README.md", "LICENSE", "chat_template.jinja")


@dataclass(frozen=True, slots=True)
class ImportedModel:
    """What came of a source."""

    digest: str
    """What a study pins in `model.digest`."""
    architecture: str
    parameters: int
    licence: str
    """As the source states it."""
    chat_template: bool
    """Whether studies may ask for `template = "chat"`."""


def import_model(source: str, out: Path) -> ImportedModel:
    """Write a base model's folder.

    Args:
        source: a .gguf file, a folder, or a hub name such as `owner/model`.
        out: a new folder. It is whole in the end, or not there.

    Raises:
        UserError: the source is none, its model or tokenizer cannot be used, or the folder cannot be written.
    """
    check_new(out)
    path = Path(source)
    if not path.exists():
        path = hub_folder(source, _BESIDE)
    if path.is_dir():
        base_digest(path)  # the weights are safetensors
        check_base_files(path)
    gguf: dict[str, Any] = {} if path.is_dir() else {"gguf_file": path.name}
    weights: dict[str, Any] = {"use_safetensors": True} if path.is_dir() else gguf
    folder = path if path.is_dir() else path.parent
    with _in_words(source), quiet():
        kind = "AutoModelForCausalLM" if gguf else _class_of(folder)
        model = getattr(transformers, kind).from_pretrained(
            folder, dtype=torch.float32 if gguf else "auto", **OWN_CODE_ONLY, **weights
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **OWN_CODE_ONLY, **gguf)
    if gguf:  # its numbers are whole now
        model.config.__dict__.pop("quantization_config", None)
        model.hf_quantizer = None
        model.is_quantized = False
    licence = _licence_of(path)
    with whole_or_gone(out):
        out.mkdir(parents=True, exist_ok=True)
        with _in_words(source), quiet():
            model.save_pretrained(out)
            tokenizer.save_pretrained(out, save_jinja_files=False)
        check_base_files(out)
        kept = load_tokenizer(out, model.config.get_text_config().vocab_size)
        return ImportedModel(
            digest=base_digest(out),
            architecture=str(model.config.model_type),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            licence=licence,
            chat_template=isinstance(kept.chat_template, str),
        )


def _class_of(folder: Path) -> str:
    """The class that loads all of a folder's weights: a causal model's head is part of it, an encoder has none."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    writes = any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in config.get("architectures") or ())
    return "AutoModelForCausalLM" if writes else "AutoModel"


def _licence_of(path: Path) -> str:
    """As a GGUF file's own metadata or a model card states it."""
    if path.is_file():
        from gguf import GGUFReader

        field = GGUFReader(path).fields.get("general.license")
        return str(field.contents()) if field is not None else NOT_STATED
    try:
        with (path / "README.md").open(encoding="utf-8", errors="replace") as file:
            found = _LICENCE.search(file.read(_CARD_BYTES_MAX).split("\n---")[0])
    except OSError:
        return NOT_STATED
    return found[1].strip().strip("\"'") if found else NOT_STATED


@contextmanager
def _in_words(source: str) -> Iterator[None]:
    """Turns whatever a library raises into words."""
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise ModelError(
            "a GGUF file is read with the package gguf, which is not installed", "Install it: pip install gguf"
        ) from error
    except Exception as error:  # a library's, of which nobody has a list
        raise ModelError(
            f"{source} cannot be read as a model ({type(error).__name__})",
            "Give a .gguf file, a folder as transformers writes it, or a hub name; fetch it again if it was cut off",
        ) from error


def as_dict(found: ImportedModel) -> dict[str, Any]:
    """For machines."""
    return {name: getattr(found, name) for name in found.__slots__}
