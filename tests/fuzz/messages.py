"""Targets below any state: CBOR, every kind of message, packed vectors, tags, shares, keys and sealed messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import cbor2

from audits.reference import notation
from crypto import shamir
from crypto.kdf import digest
from crypto.sealing import SealingError, SealingKey, SealingPublicKey
from protocols import cbor, checksum, encoding
from protocols.errors import MalformedMessage
from protocols.parameters import RoundShape
from protocols.wire import Limits, Message, decode, encode
from tests.fuzz.mutators import cbor_mutator, mutate_bytes
from tests.fuzz.target import Target, check_text, need

SENDER = 1
_LABEL = "shares envelope"
_SHAPES = tuple(RoundShape(dimension, bits) for dimension, bits in ((7, 32), (11, 13), (3, 60), (1, 8), (8, 33)))


def message_targets(kinds: Iterable[type[Message]], limits: Limits, seen: Sequence[bytes]) -> Iterator[Target]:
    """One target for each kind.

    Args:
        kinds: kinds of message.
        limits: of the session that the seeds are from.
        seen: messages of all kinds.
    """
    for kind in kinds:
        seeds = tuple(data for data in seen if cbor2.loads(data)["type"] == kind.TYPE)
        yield Target(
            f"message/{kind.TYPE}",
            "MalformedMessage that names the sender, or the one message that these bytes are",
            _decodes(kind, limits),
            seeds,
            cbor_mutator(),
        )


def primitive_targets(seen: Sequence[bytes]) -> Iterator[Target]:
    """What messages are made of."""
    yield Target(
        "cbor",
        "MalformedMessage, or a value whose canonical encoding these bytes are; a second reader agrees",
        _reads_cbor,
        tuple(seen),
        cbor_mutator(),
    )
    yield Target(
        "packed vector",
        "ValueError, or elements that pack to these bytes",
        _unpacks,
        tuple(bytes([at]) + bytes(shape.packed_bytes) for at, shape in enumerate(_SHAPES)),
        mutate_bytes,
    )
    yield Target(
        "tag", "ValueError, or a number below p that is written like this", _reads_tag, (bytes(8),), mutate_bytes
    )
    yield Target(
        "share",
        "ValueError, or a number below the prime that is written like this",
        _reads_share,
        (bytes(33),),
        mutate_bytes,
    )
    key = SealingKey(digest("fuzzed key"))
    yield Target(
        "sealing key", "SealingError, or a key that can be sealed to", _seals_to, (key.public.raw,), mutate_bytes
    )
    sealed = key.public.seal(b"plaintext", _LABEL)
    yield Target(
        "sealed message",
        "SealingError; it opens only as it was sealed",
        lambda data: _opens(key, sealed, data),
        (sealed,),
        mutate_bytes,
    )


def _decodes(kind: type[Message], limits: Limits) -> Callable[[bytes], None]:
    def check(data: bytes) -> None:
        try:
            message = decode(kind, data, limits, SENDER)
        except MalformedMessage as error:
            need(error.sender == SENDER, "an error that does not name the sender")
            check_text(error)
            return
        need(encode(message) == data, "two encodings of one message")

    return check


def _reads_cbor(data: bytes) -> None:
    try:
        theirs = notation.C(notation.parse_cbor(data)) if len(data) < 1000 else None
    except notation.Refused:
        theirs = b""
    try:
        value = cbor.read(data, SENDER)
    except MalformedMessage as error:
        check_text(error)
        need(not theirs, "the second implementation reads what this reader refuses")
        return
    need(cbor2.dumps(value, canonical=True) == data, "another encoding than the canonical one")
    need(theirs is None or theirs == data, "the second implementation refuses what this reader reads")


def _unpacks(data: bytes) -> None:
    """The first byte chooses the shape."""
    shape, packed = _SHAPES[data[0] % len(_SHAPES) if data else 0], data[1:]
    try:
        vector = encoding.unpack(packed, shape)
    except ValueError as error:
        check_text(error)
        return
    need(encoding.pack(vector, shape) == packed, "two packings of one vector")
    lifted = encoding.from_ring(vector, shape)
    need(abs(int(lifted.min())) <= 1 << (shape.ring_bits - 1), "an element outside the ring")


def _reads_tag(data: bytes) -> None:
    if len(data) != checksum.TAG_BYTES:
        return  # the schema of a message gives no other length
    try:
        tag = checksum.decode_tag(data)
    except ValueError as error:
        check_text(error)
        return
    need(checksum.encode_tag(tag) == data, "two encodings of one tag")


def _reads_share(data: bytes) -> None:
    try:
        value = shamir.parse_share(data)
    except ValueError as error:
        check_text(error)
        return
    need(value.to_bytes(shamir.SHARE_BYTES, "big") == data, "two encodings of one share")


def _seals_to(data: bytes) -> None:
    try:
        SealingPublicKey(data).seal(b"plaintext", _LABEL)
    except SealingError as error:
        check_text(error)


def _opens(key: SealingKey, sealed: bytes, data: bytes) -> None:
    try:
        plaintext = key.open(data, _LABEL)
    except SealingError as error:
        check_text(error)
        return
    need(data == sealed and plaintext == b"plaintext", "something opens that was never sealed")
