"""Makes new certificates for existing keys: no key is made, and no private key leaves its place. No nvflare.

    organiser     renew      signs every participant's public key again; it has the key from the first request
    participant   install    puts the certificate into the kit, if it is of the kit's own authority, for its own key

The kit already has its own key and the authority's certificate, whose fingerprint was compared by telephone. So a
renewed certificate needs no second call, and one for another key, name or federation is refused. Nothing that is sent
is secret.

A certificate never outlives its authority. Once the authority has expired, nothing can be renewed, and a new federation
must be created.
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
"""The same as FLARE's first certificates."""
_SIZE_MAX = 1 << 20
_SUFFIX = ".signed.zip"
_AS_APPROVED = "Restore the file that `approve` made"


@dataclass(frozen=True, slots=True)
class Renewed:
    """A certificate that was made."""

    name: str
    path: Path
    until: datetime


def renew(folder: Path, names: Sequence[str], now: datetime) -> list[Renewed]:
    """Make new certificates with the authority in a federation's folder; they go to `renewed/NAME.crt`.

    Args:
        folder: of `provision`.
        names: the participants; an empty list means all who have a certificate.
        now: the organiser's clock.

    Raises:
        UserError: the authority is missing or has expired, or never signed for a named participant.
    """
    read_profile(folder / PROFILE)
    root, key = _authority(folder / AUTHORITY, now)
    known = {path.name.removesuffix(_SUFFIX): path for path in sorted((folder / SIGNED).glob(f"*{_SUFFIX}"))}
    unknown = [name for name in names if name not in known]
    if unknown or not known:
        raise UserError(
            f"no certificate was signed here for {', '.join(unknown) or 'anyone'}",
            f"Name some of these: {', '.join(known)}" if known else "Pass the folder that `provision` made",
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
    """Put a renewed certificate into a kit. Returns the kit, and until when the certificate is valid.

    Raises:
        UserError: the certificate is not for this kit, or expires before the present one; the kit is not changed.
    """
    kit, new = read_kit(kit_folder), certificate_of(certificate, RIGHT_ONE)
    check_certificate(kit, new, certificate, now)
    until = certificate_of(kit.certificate).not_valid_after_utc
    if new.not_valid_after_utc < until:
        raise UserError(
            f"{certificate} expires before the one in {kit_folder}, which is valid until {until:%Y-%m-%d}",
            "Pass the newest certificate from the organiser; nothing was changed",
        )
    there = kit.certificate.stat()
    write_whole(kit.certificate, new.public_bytes(serialization.Encoding.PEM))
    with suppress(PermissionError):  # even if run as root, the file must belong to the user that the service runs as
        os.chown(kit.certificate, there.st_uid, there.st_gid)
    return kit, new.not_valid_after_utc


def install_here(folder: Path, made: Sequence[Renewed], now: datetime) -> list[Path]:
    """Put the new certificates into the kits of server and operator, if those are still in the federation's folder."""
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
            f"the authority's key {path} is missing or unreadable",
            "Restore the folder that is kept apart from the server; without it, create a new federation",
        ) from error
    root = certificate_of(folder / "rootCA.pem")
    if not isinstance(key, rsa.RSAPrivateKey) or key.public_key() != root.public_key():
        raise UserError(f"{path} is not the key of the authority in {folder}", "Restore the folder as it was made")
    if now > root.not_valid_after_utc:
        raise UserError(f"the authority in {folder} expired on {root.not_valid_after_utc:%Y-%m-%d}", ANEW)
    return root, key


def _signed_before(path: Path, name: str, root: x509.Certificate) -> x509.Certificate:
    """The first certificate that a participant was given."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.crt") as file:
            old = parse_certificate(file.read(_SIZE_MAX), path, _AS_APPROVED)
        old.verify_directly_issued_by(root)
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError, InvalidSignature) as error:
        raise UserError(f"{path} contains no certificate of this authority for {name}", _AS_APPROVED) from error
    return old


def _again(old: x509.Certificate, root: x509.Certificate, key: rsa.RSAPrivateKey, now: datetime) -> x509.Certificate:
    """The same subject, key and extensions, with a new serial number and new dates."""
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
