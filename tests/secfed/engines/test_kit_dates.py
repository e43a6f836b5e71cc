"""A kit that cannot connect is named before it is started, and one that soon cannot, thirty days ahead."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

pytest.importorskip("nvflare")

from cryptography import x509

from secfed.doctor.checkup import examine_aggregator, examine_node
from secfed.engines.flare import processes
from secfed.engines.flare.jobs import connect
from secfed.engines.flare.kit_check import KIT_FILE, certificate_of, check_start, read_kit, remembered
from secfed.engines.flare.kit_watch import KitWatch
from secfed.engines.flare.kits import Federation, make_kits
from secfed.engines.flare.renewal import install, renew
from secfed.engines.flare.tls import Server
from secfed.errors import UserError
from secfed.findings import Finding
from secfed.node.enrol import make_home
from secfed.node.pace import OWNERS_LOG
from tests.command_line import exit_code
from tests.kits import KitAuthority
from tests.tls import DAY, Authority, serving

SITE, OTHER = "clinic-a", "clinic-b"


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Kits:
    """A server's kit and two sites', with their authority."""

    folder: Path
    server: Path
    site: Path
    other: Path
    operator: Path

    def reissue(self, kit: Path, starts: datetime, ends: datetime) -> None:
        KitAuthority.of(self.folder).reissue(kit, starts, ends)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The kits of two federations."""
    folders = tuple(tmp_path_factory.mktemp("federations") / name for name in ("ours", "theirs"))
    for folder in folders:
        make_kits(Federation("loopback", "localhost", 8002, (SITE, OTHER)), folder)
    return folders[0], folders[1]


@pytest.fixture
def kits(made: tuple[Path, Path], tmp_path: Path) -> Kits:
    folder = tmp_path / "kits"
    shutil.copytree(made[0], folder)
    return Kits(folder, *(folder / name for name in ("server", SITE, OTHER, "operator")))


@pytest.fixture
def theirs(made: tuple[Path, Path]) -> Path:
    return made[1]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_home(tmp_path / "home", SITE)
    return tmp_path / "home"


def of_kit(findings: tuple[Finding, ...], state: str = "failed") -> list[Finding]:
    return [each for each in findings if each.check.startswith("kit") and each.state == state]


def expired(kits: Kits, theirs: Path) -> None:
    kits.reissue(kits.server, now() - 9 * DAY, now() - DAY)


def not_yet_valid(kits: Kits, theirs: Path) -> None:
    kits.reissue(kits.server, now() + DAY, now() + 90 * DAY)


def anothers_key(kits: Kits, theirs: Path) -> None:
    shutil.copy(theirs / "server" / "startup" / "server.key", kits.server / "startup" / "server.key")


def anothers_authority(kits: Kits, theirs: Path) -> None:
    shutil.copy(theirs / "server" / "startup" / "rootCA.pem", kits.server / "startup" / "rootCA.pem")


def another_address(kits: Kits, theirs: Path) -> None:
    path = kits.server / "startup" / "fed_server.json"
    path.write_text(path.read_text().replace("localhost:8002", "aggregator.example:8002"))


def open_key(kits: Kits, theirs: Path) -> None:
    (kits.server / "startup" / "server.key").chmod(0o644)


def no_key(kits: Kits, theirs: Path) -> None:
    (kits.server / "startup" / "server.key").unlink()


def of_a_site(kits: Kits, theirs: Path) -> None:
    shutil.rmtree(kits.server)
    shutil.copytree(kits.site, kits.server)


def cut_off(kits: Kits, theirs: Path) -> None:
    path = kits.server / "startup" / "server.crt"
    path.write_bytes(path.read_bytes()[:400])


def no_kit(kits: Kits, theirs: Path) -> None:
    shutil.rmtree(kits.server)


Plant = Callable[[Kits, Path], None]
FAULTS = [
    (expired, "certificate of the server expired", "secfed federation renew"),
    (not_yet_valid, "is not valid before", "clock"),
    (anothers_key, "server.key is not the key of", "Restore"),
    (anothers_authority, "was not issued by the authority", "Restore"),
    (another_address, "is for localhost, but this kit belongs to aggregator.example", "Restore"),
    (open_key, "server.key (mode 0644)", "chmod 600"),
    (no_key, "lacks server.key", "Restore"),
    (of_a_site, f"is the kit of {SITE}", "--kit"),
    (cut_off, "server.crt contains no certificate", "Restore"),
    (no_kit, "is not a start-up kit", "secfed federation kit"),
]


@pytest.mark.parametrize(("plant", "text", "fix"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_fault_of_the_aggregators_kit_is_found_with_its_fix(
    kits: Kits, theirs: Path, tmp_path: Path, plant: Plant, text: str, fix: str
) -> None:
    folder = tmp_path / "aggregator"
    folder.mkdir()
    assert of_kit(examine_aggregator(folder, None, kit=kits.server)) == []
    plant(kits, theirs)
    found = of_kit(examine_aggregator(folder, None, kit=kits.server))
    assert any(text in each.text and fix in each.fix for each in found), found


@pytest.mark.parametrize(("plant", "text", "fix"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_the_same_fault_ends_the_servers_start(
    kits: Kits, theirs: Path, tmp_path: Path, plant: Plant, text: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    monkeypatch.setattr(processes.os, "execve", lambda path, *_: started.append(path))
    plant(kits, theirs)
    code = exit_code(monkeypatch, "federation", "start", kits.server, "--aggregator", tmp_path / "aggregator")
    # A key that was open is closed by the start, and told.
    assert (code, len(started)) == ((0, 1) if plant is open_key else (2, 0))


def test_an_address_that_the_certificate_does_not_name_is_found(kits: Kits, tmp_path: Path) -> None:
    server = Server("127.0.0.1", 9, kits.server / "startup" / "rootCA.pem")
    found = of_kit(examine_aggregator(tmp_path, server, kit=kits.server))
    assert [each.check for each in found] == ["kit's address"]
    assert "certificate is for localhost" in found[0].text


def test_a_node_with_an_expired_kit_is_not_started_and_its_owner_is_told(
    kits: Kits, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(processes.os, "execve", lambda *_: pytest.fail("it was started"))
    kits.reissue(kits.site, now() - 9 * DAY, now() - DAY)
    assert exit_code(monkeypatch, "node", "run", kits.site, "--home", home) == 2
    for told in (capsys.readouterr().err, (home / OWNERS_LOG).read_text()):
        assert f"the certificate of {SITE} expired at" in told
        assert "`secfed federation renew`" in told
        assert "Traceback" not in told
    # The doctor knows the kit from that start.
    assert remembered(home) == kits.site.resolve()
    assert any(" expired at " in each.text for each in of_kit(examine_node(home, None)))


def test_a_kit_that_ends_within_thirty_days_starts_and_warns(
    kits: Kits, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[str] = []
    monkeypatch.setattr(processes.os, "execve", lambda path, *_: started.append(path))
    for kit in (kits.site, kits.server):
        kits.reissue(kit, now() - DAY, now() + 29 * DAY)
    assert exit_code(monkeypatch, "node", "run", kits.site, "--home", home) == 0
    assert exit_code(monkeypatch, "federation", "start", kits.server, "--aggregator", tmp_path / "a") == 0
    assert len(started) == 2
    printed = capsys.readouterr().err
    assert f"the certificate of {SITE} expires in 28 days" in printed
    assert "the certificate of the server expires in 28 days" in printed
    assert "expires in 28 days" in (home / OWNERS_LOG).read_text()
    for findings in (examine_node(home, None), examine_aggregator(tmp_path / "a", None)):
        (warning,) = of_kit(findings, "warning")
        assert (warning.check, "secfed federation renew" in warning.fix) == ("kit's certificate", True)
    kits.reissue(kits.site, now() - DAY, now() + 31 * DAY)
    assert of_kit(examine_node(home, None), "warning") == []


def test_the_kit_of_another_site_is_found(kits: Kits, home: Path) -> None:
    (found,) = of_kit(examine_node(home, None, kit=kits.other))
    assert f"is the kit of {OTHER}, but this is {SITE}" in found.text


def test_without_a_kit_the_doctor_says_how_to_name_it(home: Path) -> None:
    (found,) = of_kit(examine_node(home, None), "not checked")
    assert "--kit" in found.fix


def test_a_home_whose_kit_cannot_be_noted_starts_all_the_same(
    kits: Kits, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / KIT_FILE).mkdir()
    started: list[str] = []
    monkeypatch.setattr(processes.os, "execve", lambda path, *_: started.append(path))
    assert exit_code(monkeypatch, "node", "run", kits.site, "--home", home) == 0
    assert started


def test_an_operators_expired_kit_is_one_line(kits: Kits) -> None:
    kits.reissue(kits.operator, now() - 9 * DAY, now() - DAY)
    with pytest.raises(UserError, match="the certificate of the operator expired"), connect(kits.operator):
        pass


def test_a_server_with_an_expired_certificate_is_named_to_its_operator(kits: Kits, tmp_path: Path) -> None:
    """The operator's own kit is good; the server that answers shows an old certificate."""
    authority, startup = Authority.make(tmp_path / "ca"), kits.operator / "startup"
    shutil.copy(authority.path, startup / "rootCA.pem")
    for path, suffix in zip(authority.issue(read_kit(kits.operator).name), ("crt", "key"), strict=True):
        shutil.copy(path, startup / f"client.{suffix}")
    settings = json.loads((startup / "fed_admin.json").read_text())
    with serving(authority.issue("localhost", ends=now() - timedelta(hours=1))) as port:
        settings["admin"]["port"] = port
        (startup / "fed_admin.json").write_text(json.dumps(settings))
        words = rf"the certificate of localhost:{port} is refused: .*expired"
        with pytest.raises(UserError, match=words), connect(kits.operator):
            pass


def test_the_server_that_a_node_greets_is_warned_of_ahead(home: Path, tmp_path: Path) -> None:
    authority = Authority.make(tmp_path / "ca")
    certificate = authority.issue("127.0.0.1", ends=now() + 20 * DAY)
    with serving(certificate, answer=b"HTTP/1.1 200 OK\r\n\r\n") as port:
        findings = examine_node(home, Server("127.0.0.1", port, authority.path))
    (found,) = [each for each in findings if each.check == "server"]
    assert (found.state, "expires in 19 days" in found.text) == ("warning", True)


def test_the_watch_tells_thirty_days_ahead_once_a_day_and_when_it_happens(kits: Kits) -> None:
    told: list[str] = []
    start = now()
    kits.reissue(kits.site, start - DAY, start + 40 * DAY)
    watch = KitWatch(kits.site, told.append)
    assert watch.look(start) > 0
    assert told == []
    for hour in range(48):
        watch.look(start + 11 * DAY + timedelta(hours=hour))
    assert len(told) == 2
    assert all("expires in 2" in line for line in told)
    # The last look before the end comes back at the end, and that is told at once.
    assert watch.look(start + 40 * DAY - timedelta(minutes=2)) < 130
    assert watch.look(start + 40 * DAY + timedelta(seconds=1)) > 130
    assert " expired at " in told[-1]
    assert "stay open" in told[-1]
    count = len(told)
    watch.look(start + 40 * DAY + timedelta(hours=2))
    assert len(told) == count
    kits.reissue(kits.site, start - DAY, start + 400 * DAY)
    watch.look(start + 40 * DAY + timedelta(hours=3))
    assert len(told) == count


def test_a_watch_outlives_a_kit_that_is_gone(kits: Kits) -> None:
    told: list[str] = []
    shutil.rmtree(kits.site)
    ending = threading.Event()
    ending.set()
    KitWatch(kits.site, told.append).run(ending)
    assert "is not a start-up kit" in told[0]


def test_everybody_is_renewed_for_the_keys_that_are_there(kits: Kits, tmp_path: Path) -> None:
    organiser = KitAuthority.of(kits.folder).as_provisioned(tmp_path / "federation")
    keys = {kit: read_kit(kit).key.read_bytes() for kit in (kits.site, kits.server, kits.operator)}
    for kit in keys:
        kits.reissue(kit, now() - 9 * DAY, now() - DAY)
        with pytest.raises(UserError, match=" expired at "):
            check_start(kit, read_kit(kit).role)
    made = {each.name: each.path for each in renew(organiser, (), now())}
    for kit, key in keys.items():
        before = certificate_of(read_kit(kit).certificate)
        install(made[read_kit(kit).name], kit, now())
        after = certificate_of(read_kit(kit).certificate)
        assert check_start(kit, read_kit(kit).role)[1] == []
        assert read_kit(kit).key.read_bytes() == key
        assert (after.subject, after.public_key(), list(after.extensions)) == (
            before.subject,
            before.public_key(),
            list(before.extensions),
        )
        assert after.serial_number != before.serial_number
        assert key.splitlines()[3] not in made[read_kit(kit).name].read_bytes()


def test_a_certificate_begins_two_days_before_it_is_made(kits: Kits, tmp_path: Path) -> None:
    """So that a machine whose clock is a day behind can connect, and takes the authority for valid, too."""
    organiser = KitAuthority.of(kits.folder).as_provisioned(tmp_path / "federation")
    renewed = {each.name: each.path for each in renew(organiser, (SITE,), now())}
    fresh = (*(read_kit(kit).certificate for kit in (kits.server, kits.site)), read_kit(kits.site).root)
    for path in (*fresh, renewed[SITE]):
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        assert timedelta(days=1, hours=23) < now() - certificate.not_valid_before_utc < timedelta(days=2, hours=1)
    assert check_start(kits.site, "site", now() - DAY)[1] == []


def test_a_certificate_for_another_is_not_installed(kits: Kits, theirs: Path, tmp_path: Path) -> None:
    ours = KitAuthority.of(kits.folder).as_provisioned(tmp_path / "ours")
    other = KitAuthority.of(theirs).as_provisioned(tmp_path / "theirs")
    before = read_kit(kits.site).certificate.read_bytes()
    made = {each.name: each.path for each in renew(ours, (), now())}
    (foreign,) = renew(other, (SITE,), now())
    for path, words in (
        (made[OTHER], f"is for {OTHER}"),
        (foreign.path, "was not issued by the authority"),
        (read_kit(kits.site).key, "contains no certificate"),
    ):
        with pytest.raises(UserError, match=words):
            install(path, kits.site, now())
        assert read_kit(kits.site).certificate.read_bytes() == before
    install(made[SITE], kits.site, now())
    install(made[SITE], kits.site, now())  # twice is no harm
    kits.reissue(kits.site, now() - DAY, now() + 400 * DAY)
    with pytest.raises(UserError, match="expires before the one in"):
        install(made[SITE], kits.site, now())


def test_a_certificate_for_a_key_that_is_not_in_the_kit_is_not_installed(kits: Kits, tmp_path: Path) -> None:
    """Of the right federation and for the right name: the site has made another key since."""
    made = {each.name: each.path for each in renew(KitAuthority.of(kits.folder).as_provisioned(tmp_path), (), now())}
    kit = read_kit(kits.site)
    shutil.copyfile(read_kit(kits.folder / OTHER).key, kit.key)
    before = kit.certificate.read_bytes()
    with pytest.raises(UserError, match=r"is not the key of .*nothing was changed"):
        install(made[SITE], kits.site, now())
    assert kit.certificate.read_bytes() == before


def test_a_renewal_ends_with_its_authority_and_none_comes_after(kits: Kits, tmp_path: Path) -> None:
    authority = KitAuthority.of(kits.folder)
    organiser = authority.as_provisioned(tmp_path / "federation")
    end = authority.certificate.not_valid_after_utc
    (made,) = renew(organiser, (SITE,), end - DAY)
    assert made.until == end
    with pytest.raises(UserError, match=r"authority in .* expired on .*create a new federation"):
        renew(organiser, (SITE,), end + DAY)
    with pytest.raises(UserError, match="no certificate was signed here for stranger"):
        renew(organiser, ("stranger",), now())
    (organiser / "authority" / "rootCA.key").unlink()
    with pytest.raises(UserError, match="authority's key"):
        renew(organiser, (SITE,), now())


def test_the_commands_of_a_renewal(
    kits: Kits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    organiser = KitAuthority.of(kits.folder).as_provisioned(tmp_path / "federation")
    kits.reissue(kits.server, now() - 9 * DAY, now() - DAY)
    kits.server.rename(organiser / "server")
    assert exit_code(monkeypatch, "federation", "renew", "--federation", organiser, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["renewed"]) == {SITE, OTHER, "localhost", "operator@secfed.example"}
    assert told["kits"] == [str(organiser / "server")]
    assert check_start(organiser / "server", "server")[1] == []
    certificate = told["renewed"][SITE]["certificate"]
    assert exit_code(monkeypatch, "federation", "install", certificate, "--kit", kits.site) == 0
    assert f"secfed node run {kits.site}" in capsys.readouterr().out
    assert exit_code(monkeypatch, "federation", "install", certificate, "--kit", kits.other) == 2
    assert f"is for {SITE}" in capsys.readouterr().err
