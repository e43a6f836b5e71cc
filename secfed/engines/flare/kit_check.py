"""Whether a start-up kit can work: its certificate's dates, its key, its authority, its name. No nvflare.

A kit that cannot connect does not say so by itself: FLARE tries again for ever, and gRPC writes "handshake failed" into
a log that nobody reads. So each start looks first (`check_start`), and `secfed doctor` shows all of it
(`examine_kit`). A certificate that ends within `SOON` is told at both places: it can be renewed only while somebody
still has time to.
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
"""A certificate that ends sooner is to be renewed."""
KIT_FILE = "kit.txt"
"""In a node's home, or an aggregator's folder: where the kit is that it was last started with."""
BACKDATED = timedelta(days=2)
"""How long before they are made certificates begin: for whoever's clock is behind the organiser's."""
_SIZE_MAX = 1 << 20
_PATH_MAX = 4096

Role = Literal["server", "site", "operator"]
_SETTINGS: dict[Role, str] = {"server": "fed_server.json", "site": "fed_client.json", "operator": "fed_admin.json"}
_RENEWED = (
    "Have the federation's organiser renew it (`secfed federation renew`), and put it into the kit "
    "(`secfed federation install`)"
)
RIGHT_ONE = "Give the one that the organiser made for this kit; nothing was changed"
ANEW = "Have the organiser found a new federation (`secfed federation provision`), and make every kit anew"
_OWN_FILES = "Put back the files that this kit was made with, or make the kit anew: see docs/deploy.md"


@dataclass(frozen=True, slots=True)
class Kit:
    """A start-up kit, as far as TLS goes."""

    path: Path
    role: Role
    name: str
    """Whom its certificate has to name: the site, the operator, or the server's host."""
    host: str
    """The server, as this kit dials it or has it dialled."""
    port: int

    @property
    def certificate(self) -> Path:
        """What it shows to the others."""
        return self._file("crt")

    @property
    def key(self) -> Path:
        """The certificate's private key."""
        return self._file("key")

    @property
    def root(self) -> Path:
        """The authority that all of this federation's certificates are checked with."""
        return self.path / "startup" / "rootCA.pem"

    @property
    def whose(self) -> str:
        """For people."""
        return {"server": "the server", "operator": "the operator"}.get(self.role, self.name)

    def _file(self, suffix: str) -> Path:
        return self.path / "startup" / f"{'server' if self.role == 'server' else 'client'}.{suffix}"


def read_kit(path: Path) -> Kit:
    """What a kit says it is for.

    Raises:
        UserError: it is no kit, or not whole.
    """
    roles = [role for role, name in _SETTINGS.items() if (path / "startup" / name).is_file()]
    if len(roles) != 1:
        raise UserError(f"{path} is no start-up kit", "Give the folder that `secfed federation kit` made")
    settings = path / "startup" / _SETTINGS[roles[0]]
    try:
        with settings.open("rb") as file:
            name, (host, port) = _named(roles[0], json.loads(file.read(_SIZE_MAX)))
        kit = Kit(path, roles[0], str(name), str(host), int(port))
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"{settings} does not say whom this kit is for", "Make the kit again") from error
    missing = [each.name for each in (kit.certificate, kit.key, kit.root) if not each.is_file()]
    if missing:
        raise UserError(f"{path / 'startup'} lacks {' and '.join(missing)}", _OWN_FILES)
    return kit


def _named(role: Role, values: Any) -> tuple[Any, tuple[Any, Any]]:
    """Whose certificate it has to be, and the server's host and port."""
    if role == "operator":
        return values["admin"]["username"], (values["admin"]["host"], values["admin"]["port"])
    host, _, port = values["servers"][0]["service"]["target"].rpartition(":")
    return (host if role == "server" else values["client"]["fqsn"]), (host, port)


def certificate_of(path: Path, step: str = _OWN_FILES) -> x509.Certificate:
    """Read a certificate. Raises UserError, with this next step, when the file has none."""
    return parse_certificate(read_at_most(path, _SIZE_MAX, "", step), path, step)


def parse_certificate(data: bytes, path: Path, step: str) -> x509.Certificate:
    """A certificate from a file's bytes. Raises UserError, with this next step, when they are none."""
    try:
        return x509.load_pem_x509_certificate(data)
    except ValueError as error:
        raise UserError(f"{path} holds no certificate", step) from error


def names_of(certificate: x509.Certificate) -> set[str]:
    """Everybody whom a certificate is for: its common name, and the hosts and addresses in its extension."""
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
            f"the private key {kit.key} can be read by others (mode {stat.S_IMODE(mode):04o})",
            f"Run `chmod 600 {kit.key}`, and tell the federation's organiser if somebody may have read it",
        )
    return "its owner's alone to read"


def _fits(kit: Kit, now: datetime) -> str:
    _check_key(kit, certificate_of(kit.certificate), kit.certificate, _OWN_FILES)
    return "it is the certificate's"


def _check_key(kit: Kit, certificate: x509.Certificate, path: Path, step: str) -> None:
    try:
        with kit.key.open("rb") as file:
            key = serialization.load_pem_private_key(file.read(_SIZE_MAX), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{kit.key} holds no private key that can be read", _OWN_FILES) from error
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
            f"{path} was not made by the authority in {kit.root}: they are of two federations", step
        ) from error


def _name(kit: Kit, now: datetime) -> str:
    _check_name(kit, certificate_of(kit.certificate), kit.certificate, _OWN_FILES)
    return kit.name


def _check_name(kit: Kit, certificate: x509.Certificate, path: Path, step: str) -> None:
    names = names_of(certificate)
    if kit.name not in names:
        raise UserError(f"{path} is for {', '.join(sorted(names))}, and this kit is that of {kit.name}", step)


def check_certificate(kit: Kit, certificate: x509.Certificate, path: Path, now: datetime) -> None:
    """Whether a certificate is one for this kit: of its authority, for its name and its key, and good today.

    Raises:
        UserError: it is not.
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
            f"the server is dialled at {address}, and its certificate is for {', '.join(sorted(names))}: no site "
            "connects",
            "Have the sites dial the name in the certificate, or found a federation for this address",
        )
    return f"its certificate is for {address}"


def _dates(kit: Kit, now: datetime) -> str:
    return _dated(f"the certificate of {kit.whose}", certificate_of(kit.certificate), now, _RENEWED)


def _dated(whose: str, certificate: x509.Certificate, now: datetime, renewal: str) -> str:
    """Until when it is good; raises what is not well about that."""
    starts, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    clock = f"this machine's clock says {_moment(now)}"
    if now < starts:
        raise UserError(
            f"{whose} is not valid yet: it begins at {_moment(starts)}, and {clock}",
            "Set this machine's clock, if it is that; if it is right, ask the federation's organiser",
        )
    if now > ends:
        raise UserError(f"{whose} has expired at {_moment(ends)}, and {clock}", f"{renewal}, if the clock is right")
    warn_of_end(whose, ends, now, renewal)
    return f"good until {_moment(ends)}"


def warn_of_end(whose: str, ends: datetime, now: datetime, renewal: str = _RENEWED) -> None:
    """Raises Warned where a certificate ends soon."""
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
    """Look at a kit before it is started.

    Args:
        path: the kit.
        role: whose kit it has to be.
        now: this machine's clock.

    Returns:
        The kit, and what its owner has to know although it works.

    Raises:
        UserError: it cannot connect, and why; or it is another one's.
    """
    kit = read_kit(path)
    if kit.role != role:
        raise UserError(f"{path} is the kit of {kit.whose}", f"Give that of the {role}")
    warnings = []
    for _, check in _CHECKS:
        try:
            check(kit, now or datetime.now(UTC))
        except Warned as warning:
            warnings.append(f"{warning}. {warning.fix}")
        except UserError as error:
            if check is not _key:
                raise
            warnings.append(
                str(error)
            )  # whoever starts a kit closes it (`kits.narrow`), and has to know that it was open
    return kit, warnings


def examine_kit(
    path: Path | None, role: Role, name: str | None, now: datetime, address: str | None = None
) -> Iterator[Finding]:
    """For `secfed doctor`: every check of a kit.

    Args:
        path: the kit; None where nobody has said which it is.
        role: whose kit it has to be.
        name: what this site is called.
        now: this machine's clock.
        address: the host at which the server is dialled, if that was said; its certificate has to name it.
    """
    kits: list[Kit] = []

    def right_one() -> str:
        if path is None:
            raise NotChecked("no kit was started here yet", "Name it with --kit DIR")
        kit = read_kit(path)
        if kit.role != role:
            raise UserError(f"{path} is the kit of {kit.whose}", f"Give that of the {role}, with --kit DIR")
        if name not in (None, kit.name):
            raise UserError(f"{path} is the kit of {kit.name}, and this is {name}", "Give this site's own kit")
        kits.append(kit)
        return f"{path} is that of {kit.whose}"

    yield look("kit", right_one)
    for kit in kits:
        for label, check in _CHECKS:
            yield look(label, partial(check, kit, now))
        if address is not None:
            yield look("kit's address", partial(_address, kit, address))


def remember(home: Path, kit: Path) -> None:
    """Note in a home which kit it was started with, for `secfed doctor`. A full disk is no reason not to start."""
    with suppress(OSError):
        home.mkdir(parents=True, exist_ok=True)
        write_whole(home / KIT_FILE, f"{kit.resolve()}\n".encode())


def remembered(home: Path) -> Path | None:
    """The kit that a home was started with last; None if none was."""
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
