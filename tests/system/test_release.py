"""A release's wheel has the same bytes for everybody, and its lock keeps torch apart."""

from __future__ import annotations

import os
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from release.__main__ import ReleaseError, check_clean, reproducible_wheel, split_lock

pytestmark = pytest.mark.skipif(
    int(version("setuptools").partition(".")[0]) < 77, reason="builds wheels with setuptools 77 or newer"
)

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "small"
version = "1"
"""


def committed(folder: Path, setup: str = "import setuptools\nsetuptools.setup(py_modules=['small'])\n") -> Path:
    for name, text in {"pyproject.toml": PROJECT, "setup.py": setup, "small.py": "x = 1\n"}.items():
        (folder / name).write_text(text)
    author = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one", "--date", "2026-01-02T03:04:05Z"]):
        subprocess.run(["git", *command], cwd=folder, env=os.environ | author, check=True)
    return folder


@pytest.mark.sweep
def test_a_wheel_depends_on_the_commit_and_not_on_the_folder_the_time_or_the_umask(tmp_path: Path) -> None:
    root = committed(tmp_path)
    name, wheel = reproducible_wheel(root)
    (root / "small.py").touch()
    (root / "small.py").chmod(0o600)
    before = os.umask(0o077)
    try:
        assert reproducible_wheel(root) == (name, wheel)
    finally:
        os.umask(before)


def test_a_build_that_differs_from_itself_is_no_release(tmp_path: Path) -> None:
    names_its_folder = "import os\nopen('small.py', 'w').write(repr(os.getcwd()))\n"
    root = committed(tmp_path, f"{names_its_folder}import setuptools\nsetuptools.setup(py_modules=['small'])\n")
    with pytest.raises(ReleaseError, match=r"two builds of small-1-py3-none-any\.whl differ"):
        reproducible_wheel(root)


def test_what_is_not_committed_is_not_released(tmp_path: Path) -> None:
    root = committed(tmp_path)
    check_clean(root)
    (root / "new.py").write_text("x = 2\n")
    with pytest.raises(ReleaseError, match=r"first new\.py"):
        check_clean(root)


def test_torch_and_its_cuda_libraries_have_a_lock_of_their_own() -> None:
    numpy, torch, cuda = (
        "numpy==2 \\\n    --hash=a\n",
        "torch==2 \\\n    --hash=b\n",
        "nvidia-cublas==13 \\\n    --hash=c\n",
    )
    assert split_lock(cuda + numpy + torch + "torchless==1\n") == (numpy + "torchless==1\n", cuda + torch)
