"""The base model that a study pins: where its folder is, and the digest of its files. No torch.

Who only draws a study up, signs it or checks it need not load the libraries that compute.
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
    """The base model is missing, is not what the study pins, or does not fit the adapter."""


def files_digest(folder: Path, names: Sequence[str]) -> str:
    """SHA-256 over each file's name, length and content, in this order, as `sha256:` and 64 digits."""
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
    """The folder of a base model: a local one, or else a download of the hub model of this name.

    Args:
        name_or_folder: a folder, absolute or relative to `relative_to`, or a hub name such as `owner/model`.
        relative_to: the folder of the study file.

    Raises:
        ModelError: there is no such folder, and no such model within reach.
    """
    folder = relative_to / name_or_folder
    with suppress(OSError):  # a name may be longer than a file system has them
        if folder.is_dir():
            return folder
    if not _HUB_NAME.fullmatch(name_or_folder):
        raise ModelError(f"the base model folder {folder} does not exist", "Name an existing folder in model.base")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(name_or_folder, allow_patterns=list(BASE_FILES)))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise ModelError(
            f"the base model {name_or_folder} is no local folder and cannot be downloaded ({type(error).__name__})",
            "Download its folder on a machine that can, and name that folder in model.base",
        ) from error


def base_digest(folder: Path) -> str:
    """The digest that a study pins: over names, lengths and contents of the files that decide what a model computes.

    Raises:
        ModelError: there is no config or no safetensors file.
    """
    names = sorted({path.name for pattern in BASE_FILES for path in folder.glob(pattern) if path.is_file()})
    if "config.json" not in names:
        raise ModelError(f"{folder} is no base model: it has no config.json", "Name a model's folder in model.base")
    if not any(name.endswith(".safetensors") for name in names):
        raise ModelError(
            f"{folder} has no safetensors weights, and pickled weights are never loaded",
            "Convert the model with save_pretrained, which writes safetensors",
        )
    return files_digest(folder, names)


def find_base(study: Study, study_folder: Path) -> Path:
    """The base model's folder, checked against the digest that the study pins.

    Raises:
        ModelError: it is not there, or its files are others than the signed ones.
    """
    base = resolve_base(study.model.base, study_folder)
    found = base_digest(base)
    if found != study.model.digest:
        raise ModelError(
            f"the base model in {base} is not the one that the study pins: its digest is {found}",
            "Get the model that the hospitals signed for, or have a new study with this digest signed",
        )
    return base


def find_base_among(study: Study, models: Path) -> Path:
    """The base model that the study pins, from a folder of models, by its digest: what its folder is called, there or
    in the study, does not matter. Nothing is downloaded.

    Args:
        study: pins the digest.
        models: holds a folder for each model; `owner/name` may be two.

    Raises:
        ModelError: none of them is the signed one.
    """
    configs = sorted([*models.glob("*/config.json"), *models.glob("*/*/config.json")])
    # The folder with the study's name for it first: digests are over gigabytes.
    for folder in sorted((path.parent for path in configs), key=lambda path: path.name != Path(study.model.base).name):
        try:
            if base_digest(folder) == study.model.digest:
                return folder
        except ModelError:
            continue
    raise ModelError(
        f"none of {len(configs)} base models in {models} is the one that the study pins, {study.model.digest}",
        f"Get {study.model.base} from whoever drew up the study, and copy its folder into {models}",
    )
