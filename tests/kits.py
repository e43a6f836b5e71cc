"""A test's hand in the certificates of start-up kits: those of `make_kits`, issued again with other dates."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from secfed.engines.flare.authority import AUTHORITY, PROFILE, SIGNED, Profile
from secfed.engines.flare.kit_check import read_kit
from secfed.files.whole import json_text


@dataclass(frozen=True, slots=True)
class KitAuthority:
    """The authority under which `make_kits` made the kits in a folder."""

    folder: Path
    certificate: x509.Certificate
    key: rsa.RSAPrivateKey

    @classmethod
    def of(cls, folder: Path) -> KitAuthority:
        (state,) = (folder / "certificates").glob("*/state/cert.json")
        kept = json.loads(state.read_text())
        key = serialization.load_pem_private_key(kept["root_pri_key"].encode(), password=None)
        assert isinstance(key, rsa.RSAPrivateKey)
        return cls(folder, x509.load_pem_x509_certificate(kept["root_cert"].encode()), key)

    def reissue(self, kit: Path, starts: datetime, ends: datetime) -> None:
        """Have a kit's certificate begin and end at these moments."""
        path = read_kit(kit).certificate
        old = x509.load_pem_x509_certificate(path.read_bytes())
        builder = (
            x509.CertificateBuilder()
            .subject_name(old.subject)
            .issuer_name(self.certificate.subject)
            .public_key(old.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(starts)
            .not_valid_after(ends)
        )
        for extension in old.extensions:
            builder = builder.add_extension(extension.value, extension.critical)
        path.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def as_provisioned(self, folder: Path) -> Path:
        """The folder of an organiser who never held a site's key: authority, profile, and what was signed."""
        (folder / AUTHORITY).mkdir(parents=True)
        (folder / SIGNED).mkdir()
        (folder / AUTHORITY / "rootCA.pem").write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        (folder / AUTHORITY / "rootCA.key").write_bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
        kits = [read_kit(path.parent) for path in sorted(self.folder.glob("*/startup"))]
        for kit in kits:
            with zipfile.ZipFile(folder / SIGNED / f"{kit.name}.signed.zip", "w") as archive:
                archive.write(kit.certificate, f"{kit.name}.crt")
        sites = tuple(kit.name for kit in kits if kit.role == "site")
        profile = Profile(project="loopback", host=kits[0].host, port=kits[0].port, sites=sites)
        (folder / PROFILE).write_text(json_text(profile.model_dump(mode="json")))
        return folder
