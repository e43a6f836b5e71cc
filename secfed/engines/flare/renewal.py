"""New certificates for the keys that are there: nobody makes a key, and no private key leaves its place. No nvflare.

    organiser     renew      signs every participant's public key again, which it has from the first request
    participant   install    puts the certificate into the kit, if it is of the kit's own authority, for its own key

The kit has the authority's certificate since its fingerprint was compared by telephone, and its own key: so what comes
needs no second call, and a certificate for another key, name or federation is refused. Nothing sent is secret.

A certificate never outlives its authority. Once that has expired nothing can be renewed, and a new one is founded.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from secfed.engines.flare.authority import AUTHORITY, PROFILE, SIGNED, read_profile
from secfed.engines.flare.kit_check import (
    ANEW,
    BACKDATED,
    RIGHT_ONE,
    Kit,
    certificate_of,
    check_certificate,
    parse_certificate,
    read_kit,
)
from secfed.errors import UserError
from secfed.files.whole import READABLE, write_whole

RENEWED = "renewed"
VALID = timedelta(days=1095)
"""As FLARE's first ones."""
_SIZE_MAX = 1 << 20
_SUFFIX = ".signed.zip"
_AS_APPROVED = "Bring back the file as `approve` made it"


@dataclass(frozen=True, slots=True)
class Renewed:
    """A certificate that was made."""

    name: str
    path: Path
    until: datetime


def renew(folder: Path, names: Sequence[str], now: datetime) -> list[Renewed]:
    """Make new certificates with the authority in a federation's folder, in `renewed/NAME.crt`.

    Args:
        folder: of `provision`.
        names: for whom; nobody named is everybody who has one.
        now: the organiser's clock.

    Raises:
        UserError: the authority is not here, has expired, or never signed for somebody who is named.
    """
    read_profile(folder / PROFILE)
    root, key = _authority(folder / AUTHORITY, now)
    known = {path.name.removesuffix(_SUFFIX): path for path in sorted((folder / SIGNED).glob(f"*{_SUFFIX}"))}
    unknown = [name for name in names if name not in known]
    if unknown or not known:
        raise UserError(
            f"no certificate was signed here for {', '.join(unknown) or 'anybody'}",
            f"Name some of these: {', '.join(known)}" if known else "Give the folder that `provision` made",
        )
    made = []
    for name in names or known:
        old = _signed_before(known[name], name, root)
        new = _again(old, root, key, now)
        path = folder / RENEWED / f"{name}.crt"
        path.parent.mkdir(exist_ok=True)
        write_whole(path, new.public_bytes(serialization.Encoding.PEM), READABLE)
        made.append(Renewed(name, path, new.not_valid_after_utc))
    return made


def install(certificate: Path, kit_folder: Path, now: datetime) -> tuple[Kit, datetime]:
    """Put a renewed certificate into a kit. Gives the kit, and until when it is good.

    Raises:
        UserError: it is not this kit's, or ends before the one that is there; the kit stays as it is.
    """
    kit, new = read_kit(kit_folder), certificate_of(certificate, RIGHT_ONE)
    check_certificate(kit, new, certificate, now)
    until = certificate_of(kit.certificate).not_valid_after_utc
    if new.not_valid_after_utc < until:
        raise UserError(
            f"{certificate} ends before the one in {kit_folder}, which is good until {until:%Y-%m-%d}",
            "Give the one that the organiser made last; nothing was changed",
        )
    there = kit.certificate.stat()
    write_whole(kit.certificate, new.public_bytes(serialization.Encoding.PEM))
    with suppress(PermissionError):  # done as root, it is still for the user that the service runs as
        os.chown(kit.certificate, there.st_uid, there.st_gid)
    return kit, new.not_valid_after_utc


def install_here(folder: Path, made: Sequence[Renewed], now: datetime) -> list[Path]:
    """Put what was made into the kits of server and operator, as far as they still lie in the federation's folder."""
    done = []
    for path in (folder / "server", folder / "operator"):
        if not path.is_dir():
            continue
        for each in made:
            if each.name == read_kit(path).name:
                install(each.path, path, now)
                done.append(path)
    return done


def _authority(folder: Path, now: datetime) -> tuple[x509.Certificate, rsa.RSAPrivateKey]:
    path = folder / "rootCA.key"
    try:
        key = serialization.load_pem_private_key(path.read_bytes()[:_SIZE_MAX], password=None)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"the authority's key {path} is not here, or cannot be read",
            "Bring back the folder that is kept apart from the server; without it found a new federation",
        ) from error
    root = certificate_of(folder / "rootCA.pem")
    if not isinstance(key, rsa.RSAPrivateKey) or key.public_key() != root.public_key():
        raise UserError(f"{path} is not the key of the authority in {folder}", "Bring back the folder as it was made")
    if now > root.not_valid_after_utc:
        raise UserError(f"the authority in {folder} expired on {root.not_valid_after_utc:%Y-%m-%d}", ANEW)
    return root, key


def _signed_before(path: Path, name: str, root: x509.Certificate) -> x509.Certificate:
    """The certificate that a participant was given at first."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.crt") as file:
            old = parse_certificate(file.read(_SIZE_MAX), path, _AS_APPROVED)
        old.verify_directly_issued_by(root)
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError, InvalidSignature) as error:
        raise UserError(f"{path} holds no certificate of this authority for {name}", _AS_APPROVED) from error
    return old


def _again(old: x509.Certificate, root: x509.Certificate, key: rsa.RSAPrivateKey, now: datetime) -> x509.Certificate:
    """The same subject, key and extensions, with another number and other dates."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(root.subject)
        .public_key(old.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(min(now + VALID, root.not_valid_after_utc))
    )
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(key, hashes.SHA256())
