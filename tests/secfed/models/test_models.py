"""Every node starts from the same bits, and what is saved is what was trained."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel

from secfed.errors import UserError
from secfed.models.model import AdapterModel, LoraSettings, adapter_digest, load_model, load_tokenizer, orthonormal_rows
from secfed.study.base import ModelError, base_digest, resolve_base
from tests.tiny import (
    LABELS,
    LORA,
    SEED,
    VOCABULARY,
    classifying,
    load_plainly,
    make_tiny_base,
    make_tiny_model,
    make_tiny_patients,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def own_base(base: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(base, tmp_path / "own-base"))


def moved(model: AdapterModel) -> AdapterModel:
    """The model with every trained number changed, as after training."""
    state = model.get_state()
    model.set_state(state + np.linspace(-0.3, 0.3, state.size, dtype=np.float32))
    return model


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(**make_tiny_patients(10).inputs).logits  # type: ignore[no-any-return]


def fresh_with_adapter(base: Path, adapter: Path) -> torch.nn.Module:
    """What a user does with a saved adapter."""
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(LABELS))
    return PeftModel.from_pretrained(plain, adapter).eval()


@pytest.mark.parametrize("variant", ["ffa", "ab"])
def test_a_saved_adapter_on_a_fresh_base_gives_the_same_logits(base: Path, tmp_path: Path, variant: Any) -> None:
    model = moved(make_tiny_model(base, replace(LORA, variant=variant)))
    model.save(tmp_path / "adapter", "tiny")
    loaded = logits(fresh_with_adapter(base, tmp_path / "adapter"))
    assert torch.equal(loaded, logits(model.module))
    assert not torch.allclose(loaded, logits(make_tiny_model(base).module), atol=1e-3)


def test_what_a_base_lacks_is_trained_and_saved_with_the_adapter(tmp_path: Path) -> None:
    base = tmp_path / "no-pooler"
    config = BertConfig(
        vocab_size=150,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(base)
    model = moved(make_tiny_model(base))
    assert any("pooler" in name for name, _ in model.layout)
    model.save(tmp_path / "adapter", "tiny")
    assert torch.equal(logits(fresh_with_adapter(base, tmp_path / "adapter")), logits(model.module))


def test_the_same_state_is_saved_as_the_same_bytes_without_paths(base: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        moved(make_tiny_model(base)).save(tmp_path / name, "owner/tiny")
    assert adapter_digest(tmp_path / "one") == adapter_digest(tmp_path / "two")
    config = (tmp_path / "one" / "adapter_config.json").read_text()
    assert json.loads(config)["base_model_name_or_path"] == "owner/tiny"
    assert str(base.parent) not in config
    make_tiny_model(base).save(tmp_path / "two", "owner/tiny")
    assert adapter_digest(tmp_path / "one") != adapter_digest(tmp_path / "two")


def test_a_folder_without_an_adapter_has_no_digest(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"adapter_config\.json"):
        adapter_digest(tmp_path)


def test_every_node_starts_from_the_same_state_and_another_seed_gives_another(base: Path) -> None:
    def start(seed: bytes, torch_seed: int) -> list[bytes]:
        with torch.random.fork_rng():
            torch.manual_seed(torch_seed)
            module = load_model(base, classifying(), LORA, seed).module
        return [
            parameter.detach().numpy().tobytes()
            for name, parameter in module.named_parameters()
            if ".lora_" in name or ".modules_to_save." in name
        ]

    assert start(SEED, 1) == start(SEED, 2)
    assert start(SEED, 1) != start(bytes(32), 1)


PINNED_ROWS = "63e062932d3debdf056f319b98fbe65c454fab3bed256067dc37545a317b11b4"


def test_the_shared_start_has_the_pinned_bits() -> None:
    rows = orthonormal_rows(SEED, "layer", 8, 384)
    assert rows.shape == (8, 384)
    assert hashlib.sha256(rows.astype("<f4").tobytes()).hexdigest() == PINNED_ROWS


def test_the_frozen_factors_rows_are_orthonormal() -> None:
    rows = orthonormal_rows(SEED, "layer", 8, 384).astype(np.float64)
    assert np.abs(rows @ rows.T - np.eye(8)).max() < 1e-6


def test_layers_start_from_different_factors(base: Path) -> None:
    factors = [
        parameter.detach().numpy().tobytes()
        for name, parameter in make_tiny_model(base).module.named_parameters()
        if ".lora_A." in name
    ]
    assert len(set(factors)) == len(factors) == 4


def test_ffa_trains_b_and_the_head_and_ab_trains_a_too(base: Path) -> None:
    ffa = [name for name, _ in make_tiny_model(base).layout]
    both = [name for name, _ in make_tiny_model(base, replace(LORA, variant="ab")).layout]
    assert sum("lora_B" in name for name in ffa) == 4
    assert sum("classifier" in name for name in ffa) == 2
    assert not any("lora_A" in name for name in ffa)
    assert [name for name in both if "lora_A" not in name] == ffa
    assert sum("lora_A" in name for name in both) == 4


def test_at_the_start_the_adapter_changes_nothing_but_the_head(base: Path) -> None:
    module = make_tiny_model(base).module
    with module.disable_adapter(), torch.inference_mode():  # type: ignore[operator]
        plain = module.bert(**make_tiny_patients(10).inputs).pooler_output
    with torch.inference_mode():
        adapted = module.bert(**make_tiny_patients(10).inputs).pooler_output
    assert torch.equal(plain, adapted)


def test_only_the_named_layers_get_an_adapter(base: Path) -> None:
    names = [name for name, _ in make_tiny_model(base, replace(LORA, layers=(1,))).layout if "lora_B" in name]
    assert len(names) == 2
    assert all(".layer.1." in name for name in names)


def test_a_state_goes_in_and_comes_out_in_the_order_of_the_layout(base: Path) -> None:
    model = make_tiny_model(base)
    names = [name for name, _ in model.layout]
    assert names == sorted(names)
    assert model.dimension == sum(int(np.prod(shape)) for _, shape in model.layout)
    state = np.arange(model.dimension, dtype=np.float32)
    model.set_state(state)
    assert np.array_equal(model.get_state(), state)
    first, shape = model.layout[0]
    assert model.module.get_parameter(first).flatten().tolist() == list(range(int(np.prod(shape))))


def test_a_state_is_a_copy(base: Path) -> None:
    model = make_tiny_model(base)
    state = model.get_state()
    model.set_state(state + 1)
    assert np.array_equal(model.get_state(), state + 1)
    model.get_state()[:] = 0
    assert np.array_equal(model.get_state(), state + 1)


def test_a_state_that_does_not_fit_is_refused(base: Path) -> None:
    model = make_tiny_model(base)
    state = model.get_state()
    broken = state.copy()
    broken[3] = np.nan
    for wrong in (state[:-1], state.astype(np.float64), broken):
        with pytest.raises(ValueError, match="a state"):
            model.set_state(wrong)  # type: ignore[arg-type]
    assert np.array_equal(model.get_state(), state)


def test_two_forward_passes_are_equal_though_the_base_has_dropout(base: Path) -> None:
    assert json.loads((base / "config.json").read_text())["hidden_dropout_prob"] > 0
    model = make_tiny_model(base)
    model.module.train()
    assert torch.equal(logits(model.module), logits(model.module))


def test_accuracy_is_the_share_of_labels_predicted(base: Path) -> None:
    model, patients = make_tiny_model(base), make_tiny_patients(100)
    labels = model.module(**patients.inputs).logits.argmax(1)
    labels[:50] = (labels[:50] + 1) % 3
    assert model.measured(replace(patients, labels=labels)) == {"accuracy": 0.75}


def test_the_description_counts_what_is_trained(base: Path) -> None:
    model = make_tiny_model(base)
    assert model.describe().startswith(f"{model.dimension} of ")
    assert "LoRA rank 2 (B) on 4 linear layers" in model.describe()


def test_the_base_digest_changes_with_one_byte_of_the_weights(own_base: Path) -> None:
    before = base_digest(own_base)
    weights = own_base / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert base_digest(own_base) != before


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_the_base_digest_covers_configuration_and_tokenizer(own_base: Path, name: str) -> None:
    before = base_digest(own_base)
    with (own_base / name).open("a") as file:
        file.write("\n")
    assert base_digest(own_base) != before


def test_the_base_digest_does_not_cover_a_readme(own_base: Path) -> None:
    before = base_digest(own_base)
    (own_base / "README.md").write_text("changed")
    assert base_digest(own_base) == before


def test_pickled_weights_are_never_loaded(own_base: Path) -> None:
    (own_base / "model.safetensors").rename(own_base / "pytorch_model.bin")
    for use in (base_digest, make_tiny_model):
        with pytest.raises(ModelError, match="pickled weights are never loaded"):
            use(own_base)


def test_code_that_comes_with_a_model_is_never_run(own_base: Path) -> None:
    config = json.loads((own_base / "config.json").read_text())
    config["auto_map"] = {"AutoModelForSequenceClassification": "evil.Model"}
    (own_base / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="never run"):
        make_tiny_model(own_base)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        base_digest(tmp_path)
    with pytest.raises(ModelError, match="tokenizer"):
        load_tokenizer(tmp_path, 1000)


def test_a_tokenizer_with_a_token_that_the_model_lacks_is_refused(own_base: Path) -> None:
    """The record that has it would stop a round, and nobody could foresee whose that is."""
    last = VOCABULARY - 1
    assert len(load_tokenizer(own_base, VOCABULARY)) == VOCABULARY
    with pytest.raises(ModelError, match=f"has a token {last}, and the model has embeddings for {last} only"):
        load_tokenizer(own_base, last)


def test_a_base_without_tokenizer_files_is_refused(own_base: Path) -> None:
    """transformers makes up a tokenizer of five tokens then, to which every word is unknown."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (own_base / name).unlink()
    with pytest.raises(ModelError, match=rf"has 5 tokens, and the model has embeddings for {VOCABULARY}"):
        load_tokenizer(own_base, VOCABULARY)


def test_a_model_may_have_some_more_embeddings_than_its_tokenizer_has_tokens(own_base: Path) -> None:
    """Many are published so: their number is rounded up for speed."""
    assert load_tokenizer(own_base, round(VOCABULARY * 1.1))
    with pytest.raises(ModelError, match="unknown tokens"):
        load_tokenizer(own_base, round(VOCABULARY * 1.2))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"targets": ("nothing",)}, "matches lora.targets"),
        ({"layers": (9,)}, "matches lora.targets"),
        ({"rank": 64}, "rank = 64"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(base: Path, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        make_tiny_model(base, replace(LORA, **change))


def test_a_base_with_a_head_for_other_labels_is_refused(base: Path, tmp_path: Path) -> None:
    headed = AutoModelForSequenceClassification.from_pretrained(base, num_labels=7)
    headed.save_pretrained(tmp_path / "headed")
    with pytest.raises(ModelError, match="3 labels"):
        make_tiny_model(tmp_path / "headed")


def headed(base: Path, folder: Path, own: tuple[str, ...], with_head: bool = True) -> Path:
    """The base with a head, or only a config, for labels of its own."""
    names = dict(enumerate(own))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = AutoModelForSequenceClassification.from_pretrained(
            base, id2label=names, label2id={label: number for number, label in names.items()}
        )
    (model if with_head else model.bert).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("with_head", [True, False])
def test_the_studys_labels_win_over_a_bases_own_and_travel_with_the_adapter(
    base: Path, tmp_path: Path, with_head: bool
) -> None:
    own = (LABELS[1], LABELS[2], LABELS[0])
    theirs = headed(base, tmp_path / "headed", own, with_head)
    assert AutoModelForSequenceClassification.from_pretrained(theirs).config.id2label[0] == LABELS[1]
    moved(make_tiny_model(theirs)).save(tmp_path / "adapter", "tiny")
    loaded = load_plainly(theirs, tmp_path / "adapter")
    assert [loaded.config.id2label[number] for number in range(3)] == list(LABELS)
    assert [loaded.config.label2id[label] for label in LABELS] == [0, 1, 2]
    assert torch.equal(logits(loaded), logits(moved(make_tiny_model(theirs)).module))


def test_a_bases_head_for_the_studys_labels_in_another_order_predicts_them_under_the_same_names(
    base: Path, tmp_path: Path
) -> None:
    own = (LABELS[1], LABELS[2], LABELS[0])
    theirs = headed(base, tmp_path / "headed", own)
    before = logits(AutoModelForSequenceClassification.from_pretrained(theirs).eval())
    after = logits(make_tiny_model(theirs).module)
    for number, label in enumerate(LABELS):
        assert torch.allclose(after[:, number], before[:, own.index(label)], atol=1e-6)


def test_a_bases_head_for_as_many_labels_of_other_names_is_refused_and_its_names_alone_are_not(
    base: Path, tmp_path: Path
) -> None:
    own = ("negative", "neutral", "positive")
    with pytest.raises(ModelError, match="a head for 3 labels of other names"):
        make_tiny_model(headed(base, tmp_path / "headed", own))
    model = make_tiny_model(headed(base, tmp_path / "names", own, with_head=False))
    assert model.module.config.id2label == dict(enumerate(LABELS))  # type: ignore[union-attr]


def test_a_base_folder_is_found_next_to_the_study(own_base: Path) -> None:
    assert resolve_base("own-base", own_base.parent).samefile(own_base)
    assert resolve_base(str(own_base), Path("/")).samefile(own_base)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere does not exist"):
        resolve_base("./nowhere", tmp_path)


def test_a_hub_model_out_of_reach_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(ModelError, match="Download it on a machine"):
        resolve_base("owner/model", tmp_path)


def test_a_hub_model_is_fetched_without_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.update(name=name, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert resolve_base("owner/model", tmp_path) == tmp_path
    assert asked["name"] == "owner/model"
    assert not any(pattern.endswith((".bin", ".pt", ".py", "*")) for pattern in asked["patterns"])


def test_settings_are_the_studys(base: Path) -> None:
    model = make_tiny_model(base, LoraSettings(3, 6, ("attention.output.dense",), (0,), "ffa"))
    assert [shape for name, shape in model.layout if "lora_B" in name] == [(32, 3)]
