"""Every architecture that docs/models.md names, as a random model that is small enough to be tried in a second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from tests.tiny import VOCABULARY, make_tiny_base

_ENCODER: Mapping[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
_DECODER: Mapping[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    "pad_token_id": None,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
_EXPERTS: Mapping[str, Any] = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
_RELATIVE: Mapping[str, Any] = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
_OLDER: Mapping[str, Any] = {"d_model": 32, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
_BERT_TARGETS, _LLAMA_TARGETS = ("query", "value"), ("q_proj", "v_proj")


@dataclass(frozen=True, slots=True)
class Architecture:
    """One `model_type` of transformers."""

    kind: str
    title: str
    targets: tuple[str, ...]
    """What a study names in `lora.targets`."""
    config: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""
    """Words of the refusal; empty where it is trained."""

    @property
    def decoder(self) -> bool:
        """Whether it is published without a padding token."""
        return "pad_token_id" in self.config and self.config["pad_token_id"] is None


def _encoder(kind: str, title: str, targets: tuple[str, ...] = _BERT_TARGETS, **more: Any) -> Architecture:
    return Architecture(kind, title, targets, {**_ENCODER, **more})


def _decoder(kind: str, title: str, targets: tuple[str, ...] = _LLAMA_TARGETS, **more: Any) -> Architecture:
    return Architecture(kind, title, targets, {**_DECODER, **more})


ARCHITECTURES = (
    _encoder("bert", "BERT"),
    _encoder("roberta", "RoBERTa"),
    _encoder("xlm-roberta", "XLM-RoBERTa"),
    _encoder("camembert", "CamemBERT"),
    Architecture(
        "distilbert",
        "DistilBERT",
        ("q_lin", "v_lin"),
        {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 40, "pad_token_id": 0},
    ),
    _encoder("albert", "ALBERT", embedding_size=16),
    _encoder("deberta", "DeBERTa", ("in_proj",), **_RELATIVE),
    _encoder("deberta-v2", "DeBERTa-v2, v3", ("query_proj", "value_proj"), position_buckets=8, **_RELATIVE),
    _encoder("electra", "ELECTRA", embedding_size=32),
    _encoder("mpnet", "MPNet", ("attn.q", "attn.v")),
    _encoder("modernbert", "ModernBERT", ("Wqkv",), global_attn_every_n_layers=2, local_attention=8),
    _encoder("mobilebert", "MobileBERT", embedding_size=32, intra_bottleneck_size=32, true_hidden_size=32),
    _encoder("rembert", "RemBERT", input_embedding_size=16, output_embedding_size=16),
    _encoder("big_bird", "BigBird, with full attention", attention_type="original_full"),
    Architecture(
        "gpt2",
        "GPT-2",
        ("c_attn",),
        {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 40, "pad_token_id": None, "eos_token_id": 3},
    ),
    _decoder("gpt_neox", "GPT-NeoX, Pythia", ("query_key_value",)),
    Architecture(
        "opt",
        "OPT",
        _LLAMA_TARGETS,
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "ffn_dim": 64,
            "max_position_embeddings": 40,
            "word_embed_proj_dim": 32,
            "pad_token_id": 0,
        },
    ),
    Architecture(
        "bloom", "BLOOM", ("query_key_value",), {"hidden_size": 32, "n_layer": 2, "n_head": 2, "pad_token_id": 0}
    ),
    _decoder("llama", "Llama"),
    _decoder("mistral", "Mistral"),
    _decoder("qwen2", "Qwen2"),
    _decoder("qwen3", "Qwen3"),
    _decoder("gemma", "Gemma", pad_token_id=0),
    _decoder("gemma2", "Gemma 2", pad_token_id=0, sliding_window=8),
    _decoder("gemma3_text", "Gemma 3, text", pad_token_id=0, sliding_window=8),
    _decoder("phi3", "Phi-3", ("qkv_proj",), pad_token_id=0),
    _decoder("mixtral", "Mixtral (experts)", num_local_experts=2, num_experts_per_tok=1),
    _decoder("qwen2_moe", "Qwen2-MoE (experts)", shared_expert_intermediate_size=16, **_EXPERTS),
    _decoder("qwen3_moe", "Qwen3-MoE (experts)", **_EXPERTS),
    Architecture(
        "t5",
        "T5",
        ("q", "v"),
        {**_OLDER, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0},
        refused="is an encoder and a decoder (t5)",
    ),
    Architecture(
        "bart",
        "BART",
        _LLAMA_TARGETS,
        {**_OLDER, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
        | {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_start_token_id": 3},
        refused="is an encoder and a decoder (bart)",
    ),
    Architecture(
        "xlnet",
        "XLNet",
        ("layer_1",),
        {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64, "pad_token_id": 0},
        refused="classifies by the last position, and that is padding",
    ),
    Architecture(
        "squeezebert",
        "SqueezeBERT",
        _BERT_TARGETS,
        {**_ENCODER, "embedding_size": 32}
        | {f"{part}_groups": 2 for part in ("q", "k", "v", "post_attention", "intermediate", "output")},
        refused="is a convolution and no linear layer",
    ),
    Architecture(
        "longformer",
        "Longformer",
        _BERT_TARGETS,
        {**_ENCODER, "attention_window": 8},
        refused="its gradient is zero on made-up records",
    ),
)


def write_base(folder: Path, architecture: Architecture) -> Path:
    """The base as it is published: without a head; a decoder's tokenizer without a padding token."""
    make_tiny_base(folder)
    if architecture.decoder:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
        tokenizer.save_pretrained(folder)
    (folder / "config.json").unlink()
    config = AutoConfig.for_model(architecture.kind, vocab_size=VOCABULARY, **architecture.config)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        AutoModel.from_config(config).save_pretrained(folder)
    return folder
