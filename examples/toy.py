"""A tiny model and records for the examples. Both are made up here: nothing is downloaded, and training takes seconds.

The task: which part of the body is a short note about? Most words of a note hint at its label.
"""

from __future__ import annotations

import random
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, logging, set_seed

WORDS = {
    "bones": ("fracture", "rib", "joint", "spine", "plaster", "hip"),
    "heart": ("pulse", "valve", "murmur", "rhythm", "artery", "beat"),
    "lungs": ("cough", "breath", "wheeze", "sputum", "asthma", "smoker"),
}
"""Labels, and the words that hint at them."""
OTHERS = ("patient", "left", "right", "pain", "since", "monday", "seen", "again", "mild", "severe")
UNKNOWN = "[UNK]"
SPECIAL = ("[PAD]", UNKNOWN, "[CLS]", "[SEP]")


def tiny_base(folder: Path) -> Path:
    """Write a random two-layer BERT, the same every time, and its tokenizer, as a folder that transformers loads."""
    vocabulary = [*SPECIAL, *(word for words in WORDS.values() for word in words), *OTHERS]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(vocabulary)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": UNKNOWN, "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    logging.disable_progress_bar()
    set_seed(1)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    shape = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=16, initializer_range=0.15, **sizes)
    BertModel(shape).save_pretrained(folder)
    return folder


def records(owner: str, patients: int) -> list[tuple[str, str, str]]:
    """One note for each patient: (patient, text, label). The same for the same owner."""
    made_up = random.Random(owner)  # no secret: these patients exist nowhere
    labels = list(WORDS)
    notes = []
    for number in range(patients):
        label = labels[made_up.randrange(len(labels))]
        words = [*made_up.sample(WORDS[label], 5), *made_up.sample(OTHERS, 2)]
        made_up.shuffle(words)
        notes.append((f"{owner}-{number:04d}", " ".join(words), label))
    return notes
