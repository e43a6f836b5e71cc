"""Sections 2 and 6 of protocols/SPEC.md for the second implementation (`audits.reference.machines`), which name no
stage.

E, H, KDF, canonical CBOR, Sign, Seal, Shamir sharing, under the names that the SPEC gives them. HKDF, CBOR and the
sharing are written out; AES, Ed25519, ML-KEM, X25519 and HPKE come from `cryptography`. Shares no code with `crypto` or
`protocols`. Only for comparison, never for use.
"""

import hashlib
import hmac
from collections.abc import Callable, Sequence
from itertools import combinations
from struct import pack, unpack
from typing import Any

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

SHARING_PRIME = 2**256 + 297
Message = dict[str, Any]
SUITE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


class Refused(Exception):
    """A message that its receiver must refuse by the specification. Fault: the node, if the reason proves one."""

    def __init__(self, reason: str, fault: int | None = None) -> None:
        super().__init__(reason)
        self.fault = fault


def need(condition: bool, otherwise: str, fault: int | None = None) -> None:
    """Refuse unless the condition holds."""
    if not condition:
        raise Refused(otherwise, fault)


def E(label: str, *parts: bytes) -> bytes:
    return b"secfed/v1" + b"".join(len(part).to_bytes(8, "big") + part for part in (label.encode("ascii"), *parts))


def H(label: str, *parts: bytes) -> bytes:
    return hashlib.sha256(E(label, *parts)).digest()


def KDF(key: bytes, label: str, *parts: bytes, length: int = 32) -> bytes:
    """HKDF-SHA-256 (RFC 5869) with an empty salt."""
    block = out = b""
    while len(out) < length:
        text = block + E(label, *parts) + bytes([len(out) // 32 + 1])
        block = hmac.digest(hmac.digest(bytes(32), key, "sha256"), text, "sha256")
        out += block
    return out[:length]


def idx(index: int) -> bytes:
    return index.to_bytes(4, "big")


def stream(key: bytes, length: int) -> bytes:
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(length))


def C(value: Any) -> bytes:
    """Canonical CBOR (RFC 8949, 4.2.1)."""
    if value is None or isinstance(value, bool):
        return {False: b"\xf4", True: b"\xf5", None: b"\xf6"}[value]
    if isinstance(value, int):
        return _head(0, value) if value >= 0 else _head(1, -1 - value)
    if isinstance(value, float):  # only in a study; messages have none, and `parse_cbor` refuses them
        return _shortest_float(value)
    if isinstance(value, bytes):
        return _head(2, len(value)) + value
    if isinstance(value, str):
        return _head(3, len(value.encode())) + value.encode()
    if isinstance(value, dict):
        return _head(5, len(value)) + b"".join(key + C(v) for key, v in sorted((C(k), v) for k, v in value.items()))
    return _head(4, len(value)) + b"".join(C(item) for item in value)


def _head(major: int, n: int) -> bytes:
    if n < 24:
        return bytes([major << 5 | n])
    exponent = next(k for k in range(4) if n < 256 ** (2**k))
    return bytes([major << 5 | 24 + exponent]) + n.to_bytes(2**exponent, "big")


def _shortest_float(value: float) -> bytes:
    for head, form in ((b"\xf9", ">e"), (b"\xfa", ">f")):
        try:
            short = pack(form, value)
        except OverflowError:
            continue
        if unpack(form, short) == (value,):
            return head + short
    return b"\xfb" + pack(">d", value)


def parse_cbor(data: bytes) -> Any:
    try:
        value, end = _item(data, 0, 1)
    except (IndexError, UnicodeDecodeError, TypeError) as error:
        raise Refused("not CBOR") from error
    need(end == len(data) and C(value) == data, "not canonical CBOR")
    return value


def _item(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    major, info = data[at] >> 5, data[at] & 31
    at += 1
    if major == 7 and 20 <= info <= 22:
        return (False, True, None)[info - 20], at
    need(major < 6 and info < 28, "an item that messages do not have")
    width = 0 if info < 24 else 2 ** (info - 24)
    n = info if info < 24 else int.from_bytes(data[at : at + width], "big")
    at += width
    if major < 2:
        return (n if major == 0 else -1 - n), at
    if major < 4:
        need(at + n <= len(data), "cut short")
        text = data[at : at + n]
        return (text if major == 2 else text.decode()), at + n
    need(depth <= 6, "too deep")
    items = []
    for _ in range(n if major == 4 else 2 * n):
        item, at = _item(data, at, depth + 1)
        items.append(item)
    need(major == 4 or all(isinstance(key, str) for key in items[::2]), "a map key that is not text")
    return (items if major == 4 else dict(zip(items[::2], items[1::2], strict=True))), at


def sign(identity: bytes, label: str, *parts: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(identity).sign(E(label, *parts))


def verify(public: bytes, signature: bytes, label: str, *parts: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, E(label, *parts))
    except InvalidSignature as error:
        raise Refused(f"wrong signature on {label}") from error


def receive(data: bytes, kind: str, session: bytes | None = None) -> Message:
    message: Message = parse_cbor(data)
    need(message["type"] == kind and message.get("session") == session, f"not a {kind} of this session")
    return message


def unsigned(message: Message) -> bytes:
    return C({key: value for key, value in message.items() if key != "signature"})


def seal_key(seed: bytes) -> tuple[hpke.MLKEM768X25519PrivateKey, bytes]:
    kem = MLKEM768PrivateKey.from_seed_bytes(KDF(seed, "sealing ML-KEM-768", length=64))
    curve = X25519PrivateKey.from_private_bytes(KDF(seed, "sealing X25519"))
    public = kem.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()
    return hpke.MLKEM768X25519PrivateKey(kem, curve), public


def seal_public(seed: bytes) -> bytes:
    return seal_key(seed)[1]


def seal(public: bytes, plaintext: bytes, info: bytes) -> bytes:
    kem, curve = MLKEM768PublicKey.from_public_bytes(public[:1184]), X25519PublicKey.from_public_bytes(public[1184:])
    return SUITE.encrypt(plaintext, hpke.MLKEM768X25519PublicKey(kem, curve), info=info)


def unseal(seed: bytes, sealed: bytes, info: bytes, sender: int | None = None) -> bytes:
    try:
        return SUITE.decrypt(sealed, seal_key(seed)[0], info=info)
    except (InvalidTag, ValueError) as error:
        raise Refused("an envelope that does not open", sender) from error


# --- Section 6: secret sharing


def deal(secret: bytes, key: bytes, quorum: int, receivers: Sequence[int]) -> dict[int, bytes]:
    rest = [KDF(key, "Shamir coefficient", k.to_bytes(8, "big"), length=48) for k in range(1, quorum)]
    polynomial = [int.from_bytes(coefficient, "big") for coefficient in (secret, *rest)]
    values = {v: sum(a * (1 + v) ** k for k, a in enumerate(polynomial)) for v in receivers}
    return {v: (value % SHARING_PRIME).to_bytes(33, "big") for v, value in values.items()}


def rebuild(
    shares: dict[int, bytes], quorum: int, public: bytes, publish: Callable[[bytes], bytes], dealer: int | None = None
) -> bytes:
    """The secret whose public value is given, from any quorum of the shares (Lagrange at zero)."""
    for subset in combinations(sorted(shares), quorum):
        total = 0
        for u in subset:
            above = below = 1
            for v in subset:
                if v != u:
                    above, below = above * (1 + v) % SHARING_PRIME, below * (v - u) % SHARING_PRIME
            total += int.from_bytes(shares[u], "big") * above * pow(below, -1, SHARING_PRIME)
        secret = total % SHARING_PRIME
        if secret < 2**256 and publish(secret.to_bytes(32, "big")) == public:
            return secret.to_bytes(32, "big")
    raise Refused("the dealer shared another secret than it committed to", dealer)
