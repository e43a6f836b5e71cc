"""The base model that a study pins: its folder and the digest of its files. No torch.

So writing, signing or checking a study does not load the training libraries.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from secfed.errors import UserError
from secfed.study.base_files import BASE_FILES
from secfed.study.manifest import Study


class ModelError(UserError):
    """The base model is missing, is not the pinned one, or does not fit the adapter."""


def files_digest(folder: Path, names: Sequence[str]) -> str:
    """SHA-256 over each file's name, length and content, in this order, as `sha256:` and 64 hex digits."""
    state = hashlib.sha256(b"secfed model files v1\0")
    for name in names:
        path = folder / name
        state.update(len(name.encode()).to_bytes(8, "big") + name.encode())
        state.update(path.stat().st_size.to_bytes(8, "big"))
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                state.update(chunk)
    return f"sha256:{state.hexdigest()}"


_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def resolve_base(name_or_folder: str, relative_to: Path) -> Path:
    """The folder of a base model: a local folder if there is one, else a download from the model hub.

    Args:
        name_or_folder: a folder, absolute or relative to `relative_to`, or a hub name such as `owner/model`.
        relative_to: the folder of the study file.

    Raises:
        ModelError: there is no such folder, and the hub gave no such model.
    """
    folder = relative_to / name_or_folder
    with suppress(OSError):  # the name may be too long for the file system
        if folder.is_dir():
            return folder
    if not _HUB_NAME.fullmatch(name_or_folder):
        raise ModelError(f"the base model folder {folder} does not exist", "Name an existing folder in model.base")
    return hub_folder(name_or_folder)


def hub_folder(name: str, beside: Sequence[str] = ()) -> Path:
    """A download of the hub model of this name.

    Args:
        name: such as `owner/model`.
        beside: files to fetch, if they are there, beside those that decide what the model computes.

    Raises:
        ModelError: this is no such name, or no such model is within reach.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if not _HUB_NAME.fullmatch(name):
        raise ModelError(f"{name} is neither a file or folder that exists nor a hub name", "Give one of these")
    try:
        return Path(snapshot_download(name, allow_patterns=[*BASE_FILES, *beside]))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise ModelError(
            f"the base model {name} is not a local folder and cannot be downloaded ({type(error).__name__})",
            "Download it on a machine with network access, and name the folder in model.base",
        ) from error


def base_digest(folder: Path) -> str:
    """The digest that a study pins: over names, lengths and contents of the files that decide what the model computes.

    Raises:
        ModelError: the folder has no config.json or no safetensors file.
    """
    names = sorted({path.name for pattern in BASE_FILES for path in folder.glob(pattern) if path.is_file()})
    if "config.json" not in names:
        raise ModelError(f"{folder} is not a base model: it has no config.json", "Name a model's folder in model.base")
    if not any(name.endswith(".safetensors") for name in names):
        raise ModelError(
            f"{folder} has no safetensors weights, and pickled weights are never loaded",
            "Convert the model with save_pretrained, which writes safetensors",
        )
    return files_digest(folder, names)


def find_base(study: Study, study_folder: Path) -> Path:
    """The base model's folder, checked against the digest that the study pins.

    Raises:
        ModelError: the folder is missing, or its files differ from the signed ones.
    """
    base = resolve_base(study.model.base, study_folder)
    found = base_digest(base)
    if found != study.model.digest:
        raise ModelError(
            f"the base model in {base} differs from the one in the study: its digest is {found}",
            "Get the model that the sites signed, or ask them to sign a new study with this digest",
        )
    return base


def find_base_among(study: Study, models: Path) -> Path:
    """Find the base model that the study pins, by digest, in a folder of models. Folder names do not matter.
    Nothing is downloaded.

    Args:
        study: pins the digest.
        models: holds a folder for each model, also nested as `owner/name`.

    Raises:
        ModelError: none of them is the signed model.
    """
    configs = sorted([*models.glob("*/config.json"), *models.glob("*/*/config.json")])
    # Try the folder with the study's name for the model first: a digest reads gigabytes.
    for folder in sorted((path.parent for path in configs), key=lambda path: path.name != Path(study.model.base).name):
        try:
            if base_digest(folder) == study.model.digest:
                return folder
        except ModelError:
            continue
    raise ModelError(
        f"none of {len(configs)} base models in {models} is the one in the study, {study.model.digest}",
        f"Get {study.model.base} from the study's organiser, and copy its folder into {models}",
    )
