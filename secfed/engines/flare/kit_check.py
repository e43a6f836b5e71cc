"""Checks whether a start-up kit can work: its certificate's dates, its key, its authority, its name. No nvflare.

A kit that cannot connect does not report it: FLARE retries for ever, and gRPC writes "handshake failed" into a log that
nobody reads. So each start checks the kit first (`check_start`), and `secfed doctor` shows every check (`examine_kit`).
Both warn of a certificate that expires within `SOON`, while there is still time to renew it.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from secfed.errors import UserError
from secfed.files.reading import read_at_most
from secfed.files.whole import open_to_others, write_whole
from secfed.findings import Finding, NotChecked, Warned, look

SOON = timedelta(days=30)
"""A certificate that expires sooner should be renewed."""
KIT_FILE = "kit.txt"
"""In a node's home or an aggregator's folder: names the kit that it was last started with."""
BACKDATED = timedelta(days=2)
"""Certificates are valid from this long before they are made, for machines whose clock is behind the organiser's."""
_SIZE_MAX = 1 << 20
_PATH_MAX = 4096

Role = Literal["server", "site", "operator"]
_SETTINGS: dict[Role, str] = {"server": "fed_server.json", "site": "fed_client.json", "operator": "fed_admin.json"}
_RENEWED = (
    "Ask the federation's organiser to renew it (`secfed federation renew`), then install it in the kit (`secfed "
    "federation install`)"
)
RIGHT_ONE = "Pass the certificate that the organiser made for this kit; nothing was changed"
ANEW = "Ask the organiser to create a new federation (`secfed federation provision`), and make every kit again"
_OWN_FILES = "Restore the files that this kit was made with, or make the kit again: see docs/deploy.md"


@dataclass(frozen=True, slots=True)
class Kit:
    """The TLS part of a start-up kit."""

    path: Path
    role: Role
    name: str
    """The name that its certificate must contain: the site, the operator, or the server's host."""
    host: str
    """The server's address: as this kit dials it, or as others dial it."""
    port: int

    @property
    def certificate(self) -> Path:
        """The certificate that it presents."""
        return self._file("crt")

    @property
    def key(self) -> Path:
        """The certificate's private key."""
        return self._file("key")

    @property
    def root(self) -> Path:
        """The authority's certificate, which all certificates of this federation are checked against."""
        return self.path / "startup" / "rootCA.pem"

    @property
    def whose(self) -> str:
        """Whose kit this is, in words."""
        return {"server": "the server", "operator": "the operator"}.get(self.role, self.name)

    def _file(self, suffix: str) -> Path:
        return self.path / "startup" / f"{'server' if self.role == 'server' else 'client'}.{suffix}"


def read_kit(path: Path) -> Kit:
    """Read what a kit's own settings say it is for.

    Raises:
        UserError: it is not a kit, or it is incomplete.
    """
    roles = [role for role, name in _SETTINGS.items() if (path / "startup" / name).is_file()]
    if len(roles) != 1:
        raise UserError(f"{path} is not a start-up kit", "Pass the folder that `secfed federation kit` made")
    settings = path / "startup" / _SETTINGS[roles[0]]
    try:
        with settings.open("rb") as file:
            name, (host, port) = _named(roles[0], json.loads(file.read(_SIZE_MAX)))
        kit = Kit(path, roles[0], str(name), str(host), int(port))
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"{settings} does not say who this kit is for", "Make the kit again") from error
    missing = [each.name for each in (kit.certificate, kit.key, kit.root) if not each.is_file()]
    if missing:
        raise UserError(f"{path / 'startup'} lacks {' and '.join(missing)}", _OWN_FILES)
    return kit


def _named(role: Role, values: Any) -> tuple[Any, tuple[Any, Any]]:
    """The name that the certificate must contain, and the server's host and port."""
    if role == "operator":
        return values["admin"]["username"], (values["admin"]["host"], values["admin"]["port"])
    host, _, port = values["servers"][0]["service"]["target"].rpartition(":")
    return (host if role == "server" else values["client"]["fqsn"]), (host, port)


def certificate_of(path: Path, step: str = _OWN_FILES) -> x509.Certificate:
    """Read a certificate. Raises UserError with this next step if the file contains none."""
    return parse_certificate(read_at_most(path, _SIZE_MAX, "", step), path, step)


def parse_certificate(data: bytes, path: Path, step: str) -> x509.Certificate:
    """A certificate from a file's bytes. Raises UserError with this next step if they are not a certificate."""
    try:
        return x509.load_pem_x509_certificate(data)
    except ValueError as error:
        raise UserError(f"{path} contains no certificate", step) from error


def names_of(certificate: x509.Certificate) -> set[str]:
    """All names in a certificate: its common name, and the hosts and addresses in its extension."""
    names = {str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)}
    with suppress(x509.ExtensionNotFound):
        others = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names |= set(others.get_values_for_type(x509.DNSName))
        names |= {str(each) for each in others.get_values_for_type(x509.IPAddress)}
    return names


def _key(kit: Kit, now: datetime) -> str:
    mode = kit.key.stat().st_mode
    if open_to_others(mode):
        raise UserError(
            f"other users can read the private key {kit.key} (mode {stat.S_IMODE(mode):04o})",
            f"Run `chmod 600 {kit.key}`, and tell the federation's organiser if someone may have read it",
        )
    return "only its owner can read it"


def _fits(kit: Kit, now: datetime) -> str:
    _check_key(kit, certificate_of(kit.certificate), kit.certificate, _OWN_FILES)
    return "it matches the certificate"


def _check_key(kit: Kit, certificate: x509.Certificate, path: Path, step: str) -> None:
    try:
        with kit.key.open("rb") as file:
            key = serialization.load_pem_private_key(file.read(_SIZE_MAX), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{kit.key} contains no readable private key", _OWN_FILES) from error
    if key.public_key() != certificate.public_key():
        raise UserError(f"{kit.key} is not the key of {path}", step)


def _authority(kit: Kit, now: datetime) -> str:
    _check_issuer(kit, certificate_of(kit.certificate), kit.certificate, _OWN_FILES)
    return _dated("the federation's authority", certificate_of(kit.root), now, ANEW)


def _check_issuer(kit: Kit, certificate: x509.Certificate, path: Path, step: str) -> None:
    try:
        certificate.verify_directly_issued_by(certificate_of(kit.root))
    except (ValueError, TypeError, InvalidSignature) as error:
        raise UserError(
            f"{path} was not issued by the authority in {kit.root}: they belong to different federations", step
        ) from error


def _name(kit: Kit, now: datetime) -> str:
    _check_name(kit, certificate_of(kit.certificate), kit.certificate, _OWN_FILES)
    return kit.name


def _check_name(kit: Kit, certificate: x509.Certificate, path: Path, step: str) -> None:
    names = names_of(certificate)
    if kit.name not in names:
        raise UserError(f"{path} is for {', '.join(sorted(names))}, but this kit belongs to {kit.name}", step)


def check_certificate(kit: Kit, certificate: x509.Certificate, path: Path, now: datetime) -> None:
    """Check that a certificate fits this kit: issued by its authority, for its name and its key, and valid now.

    Raises:
        UserError: it does not fit.
    """
    _check_issuer(kit, certificate, path, RIGHT_ONE)
    _check_name(kit, certificate, path, RIGHT_ONE)
    _check_key(kit, certificate, path, RIGHT_ONE)
    with suppress(Warned):
        _dated(f"the certificate {path}", certificate, now, _RENEWED)


def _address(kit: Kit, address: str) -> str:
    names = names_of(certificate_of(kit.certificate))
    if address not in names:
        raise UserError(
            f"sites dial the server at {address}, but its certificate is for {', '.join(sorted(names))}: no site can "
            "connect",
            "Have the sites dial the name in the certificate, or create a federation for this address",
        )
    return f"its certificate is for {address}"


def _dates(kit: Kit, now: datetime) -> str:
    return _dated(f"the certificate of {kit.whose}", certificate_of(kit.certificate), now, _RENEWED)


def _dated(whose: str, certificate: x509.Certificate, now: datetime, renewal: str) -> str:
    """Say until when a certificate is valid. Raises UserError if it is not valid now, Warned if it expires soon."""
    starts, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    clock = f"this machine's clock says {_moment(now)}"
    if now < starts:
        raise UserError(
            f"{whose} is not valid before {_moment(starts)}, and {clock}",
            "Correct this machine's clock if it is wrong; if it is right, ask the federation's organiser",
        )
    if now > ends:
        raise UserError(f"{whose} expired at {_moment(ends)}, and {clock}", f"If the clock is right: {renewal}")
    warn_of_end(whose, ends, now, renewal)
    return f"valid until {_moment(ends)}"


def warn_of_end(whose: str, ends: datetime, now: datetime, renewal: str = _RENEWED) -> None:
    """Raises Warned if a certificate expires soon."""
    if ends - now < SOON:
        raise Warned(f"{whose} expires in {_days(ends - now)}, at {_moment(ends)}", renewal)


Check = Callable[[Kit, datetime], str]
_CHECKS: tuple[tuple[str, Check], ...] = (
    ("kit's key", _key),
    ("kit's key fits", _fits),
    ("kit's authority", _authority),
    ("kit's name", _name),
    ("kit's certificate", _dates),
)


def check_start(path: Path, role: Role, now: datetime | None = None) -> tuple[Kit, list[str]]:
    """Check a kit before it is started.

    Args:
        path: the kit.
        role: whose kit it must be. now: this machine's clock. Returns:

    Returns:
        The kit, and warnings for its owner: it works, but needs attention.

    Raises:
        UserError: it cannot connect, with the reason; or it belongs to another role.
    """
    kit = read_kit(path)
    if kit.role != role:
        raise UserError(f"{path} is the kit of {kit.whose}", f"Pass the kit of the {role}")
    warnings = []
    for _, check in _CHECKS:
        try:
            check(kit, now or datetime.now(UTC))
        except Warned as warning:
            warnings.append(f"{warning}. {warning.fix}")
        except UserError as error:
            if check is not _key:
                raise
            # starting a kit makes its key private again (`kits.narrow`); its owner must know that it was open
            warnings.append(str(error))
    return kit, warnings


def examine_kit(
    path: Path | None, role: Role, name: str | None, now: datetime, address: str | None = None
) -> Iterator[Finding]:
    """Every check of a kit, for `secfed doctor`.

    Args:
        path: the kit; None if none was named or remembered.
        role: whose kit it has to be.
        name: the site's name.
        now: this machine's clock.
        address: the host at which sites dial the server, if given; the server's certificate must name it.
    """
    kits: list[Kit] = []

    def right_one() -> str:
        if path is None:
            raise NotChecked("no kit was started here so far", "Name it with --kit DIR")
        kit = read_kit(path)
        if kit.role != role:
            raise UserError(f"{path} is the kit of {kit.whose}", f"Pass the kit of the {role} with --kit DIR")
        if name not in (None, kit.name):
            raise UserError(f"{path} is the kit of {kit.name}, but this is {name}", "Pass this site's own kit")
        kits.append(kit)
        return f"{path} is the kit of {kit.whose}"

    yield look("kit", right_one)
    for kit in kits:
        for label, check in _CHECKS:
            yield look(label, partial(check, kit, now))
        if address is not None:
            yield look("kit's address", partial(_address, kit, address))


def remember(home: Path, kit: Path) -> None:
    """Note in a home which kit it was started with, for `secfed doctor`. A full disk does not prevent the start."""
    with suppress(OSError):
        home.mkdir(parents=True, exist_ok=True)
        write_whole(home / KIT_FILE, f"{kit.resolve()}\n".encode())


def remembered(home: Path) -> Path | None:
    """The kit that a home was last started with; None if there was none."""
    try:
        text = (home / KIT_FILE).read_text()[:_PATH_MAX].strip()
    except (OSError, ValueError):
        return None
    return Path(text) if text else None


def _days(left: timedelta) -> str:
    minutes = max(left.total_seconds(), 0) / 60
    if minutes < 120:
        return f"{minutes:.0f} minutes"
    return f"{minutes / 60:.0f} hours" if left.days < 2 else f"{left.days} days"


def _moment(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
