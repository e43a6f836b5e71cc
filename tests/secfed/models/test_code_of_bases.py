"""Code that comes with a base is never run, not even if somebody at the terminal says yes to a library that asks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import make_tiny_base

_CODE = """
from pathlib import Path
Path({mark!r}).write_text("run")
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
class Config(BertConfig): pass
class Model(BertModel): pass
class Tokenizer(PreTrainedTokenizerFast): pass
"""
_LOADING = """
import contextlib, sys
from pathlib import Path
from secfed.models import libraries
if sys.argv[2] == "undefended":
    libraries.OWN_CODE_ONLY.pop("trust_remote_code")
from secfed.models.data.tokens import tokenizer_in
from secfed.models.model import load_tokenizer
from secfed.models.model_import import import_model
base = Path(sys.argv[1])
for load in (tokenizer_in, lambda base: load_tokenizer(base, 108), lambda base: import_model(str(base), base / "out")):
    with contextlib.suppress(Exception):
        load(base)
print("tried")
"""


def run_code(base: Path, mark: Path, *, defended: bool) -> bool:
    """Load a base in every way, and say yes to whatever is asked. Gives whether its code was run."""
    command = [sys.executable, "-c", _LOADING, str(base), "defended" if defended else "undefended"]
    done = subprocess.run(command, input="y\n" * 20, capture_output=True, text=True, check=False, timeout=240)
    assert done.stdout.endswith("tried\n"), done.stderr
    return mark.exists()


@pytest.mark.parametrize("defended", [True, False])
def test_nobody_is_asked_whether_a_models_own_code_may_run(tmp_path: Path, defended: bool) -> None:
    base, mark = make_tiny_base(tmp_path / "base"), tmp_path / "mark"
    (base / "own.py").write_text(_CODE.format(mark=str(mark)))
    config = json.loads((base / "config.json").read_text())
    own = {"AutoConfig": "own.Config", "AutoModel": "own.Model", "AutoTokenizer": [None, "own.Tokenizer"]}
    (base / "config.json").write_text(json.dumps(config | {"auto_map": own, "model_type": "own"}))
    assert run_code(base, mark, defended=defended) != defended
