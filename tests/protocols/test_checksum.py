"""The verified sum: a changed, scaled, negated or suppressed sum is refused, and passes when the check is off."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.prg import keystream
from protocols import checksum, encoding
from protocols.aggregator import Aggregator, Stage
from protocols.checksum import PRIME, ChecksumKey, decode_tag, encode_tag
from protocols.client import Client
from protocols.errors import MalformedMessage, WrongSum
from protocols.events import Rejected
from protocols.masking import MaskedSum
from protocols.messages import MaskedInput, Published
from protocols.wire import decode, encode, fields_of
from tests.protocols.rounds import Round, configure, identities, random_vectors

SESSION = bytes(range(32))


def key_words(count: int, stream_key: bytes) -> list[int]:
    data = keystream(stream_key).update(bytes(8 * count))
    return [int.from_bytes(data[8 * at : 8 * at + 8], "little") for at in range(count)]


@settings(deadline=None, max_examples=60)
@given(
    bits=st.integers(8, 60),
    size=st.sampled_from([1, 2, 7, 100, 16383, 16384, 16385, 40000]),
    seed=st.integers(0, 2**32),
    count=st.integers(1, 1000),
)
def test_a_tag_is_the_inner_product_modulo_p_in_plain_integers(bits: int, size: int, seed: int, count: int) -> None:
    vector = np.random.default_rng(seed).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), size)
    vector[0], vector[-1] = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    key = ChecksumKey(SESSION, {0: bytes(32), 5: seed.to_bytes(32, "big")}, bits)
    words = key_words(size, key._stream_key)
    expected = sum(word * int(value) for word, value in zip(words, vector, strict=True)) + key._constant * count
    assert key.tag(vector, count) == expected % PRIME


def test_long_vectors_stay_exact_when_limb_sums_are_carried() -> None:
    """Extreme limbs over more chunks than double precision could add up without a carry in between."""
    size = checksum._CHUNK * (checksum._EXACT_CHUNKS + 3) + 11
    vector = np.full(size, 2**59 - 1, dtype=np.int64)
    key = ChecksumKey(SESSION, {0: bytes(32)}, 60)
    words = np.frombuffer(keystream(key._stream_key).update(bytes(8 * size)), dtype="<u8")
    high, low = int((words >> np.uint64(32)).sum()), int((words & np.uint64(0xFFFFFFFF)).sum())
    assert key.tag(vector) == (((high << 32) + low) * (2**59 - 1) + key._constant) % PRIME


def test_tags_of_inputs_add_up_to_the_tag_of_their_sum() -> None:
    vectors = [np.random.default_rng(node).integers(-(2**40), 2**40, 50) for node in range(4)]
    key = ChecksumKey(SESSION, {0: bytes(32)}, 60)
    assert sum(key.tag(vector) for vector in vectors) % PRIME == key.tag(sum(vectors), 4)  # type: ignore[arg-type]


def test_every_contribution_and_the_session_change_the_key() -> None:
    vector = np.arange(5, dtype=np.int64)
    base = {0: bytes(32), 1: bytes(32)}
    tags = {
        ChecksumKey(SESSION, base, 60).tag(vector),
        ChecksumKey(bytes(32), base, 60).tag(vector),
        ChecksumKey(SESSION, {0: bytes(32)}, 60).tag(vector),
        ChecksumKey(SESSION, {0: bytes(32), 2: bytes(32)}, 60).tag(vector),
        ChecksumKey(SESSION, {0: bytes(32), 1: b"\1" + bytes(31)}, 60).tag(vector),
    }
    assert len(tags) == 5


def test_the_zero_vector_has_a_tag_that_cannot_be_guessed() -> None:
    """Without the constant term, (0, 0) would pass as a suppressed sum."""
    key = ChecksumKey(SESSION, {0: bytes(32)}, 60)
    assert key.tag(np.zeros(5, dtype=np.int64), 3) == 3 * key._constant % PRIME != 0


def test_a_tag_has_one_form() -> None:
    assert decode_tag(encode_tag(PRIME - 1)) == PRIME - 1
    with pytest.raises(ValueError, match="below"):
        decode_tag(PRIME.to_bytes(8, "big"))


def test_a_checksum_key_is_not_shown_and_not_pickled() -> None:
    key = ChecksumKey(SESSION, {0: bytes(32)}, 60)
    assert repr(key) == "ChecksumKey()"
    with pytest.raises(TypeError):
        pickle.dumps(key)


def test_masks_come_off_as_they_went_on() -> None:
    vector = np.arange(9, dtype=np.uint32)
    masked = MaskedSum(SESSION, vector.copy(), 17)
    masked.add_self_mask(bytes(32), 2)
    masked.add_pair_mask(bytes([1]) * 32, 2, 4)
    masked.add_pair_mask(bytes([2]) * 32, 2, 1)
    assert masked.tag != 17
    masked.add_pair_mask(bytes([1]) * 32, 4, 2)  # the peer's own half cancels it
    masked.add_pair_mask(bytes([2]) * 32, 2, 1, remove=True)
    masked.add_self_mask(bytes(32), 2, remove=True)
    assert masked.tag == 17
    assert masked.vector.tolist() == vector.tolist()


class Unchecking(Client):
    """A node without the check of the sum."""

    def _check_sum(self, total: np.ndarray, tag: bytes) -> None:
        """Accept anything."""


def run_with(change: Callable[[Published, Aggregator], Published], client_class: type[Client]) -> Round:
    """A round whose aggregator publishes something else."""
    config = configure(5, dropouts=1, colluders=1, ring_bits=24)

    class Forging(Aggregator):
        def advance(self) -> dict[int, bytes]:
            messages = super().advance()
            if self.stage is not Stage.CLOSE:
                return messages
            honest = decode(Published, next(iter(messages.values())), self.config.limits, None)
            forged = change(honest, self)
            self._packed = forged.vector
            return dict.fromkeys(messages, encode(forged))

    return Round(config, random_vectors(config, 3), client_class=client_class, aggregator_class=Forging)


def packed(values: np.ndarray, aggregator: Aggregator) -> bytes:
    shape = aggregator.config.context.shape
    return encoding.pack(encoding.to_ring(values, shape, 1 << (shape.ring_bits - 1)), shape)


def total_of(message: Published, aggregator: Aggregator) -> np.ndarray:
    shape = aggregator.config.context.shape
    return encoding.from_ring(encoding.unpack(message.vector, shape), shape)


def bent(message: Published, **changes: bytes) -> Published:
    return Published(**{**fields_of(message), **changes})


def with_offset(message: Published, aggregator: Aggregator) -> Published:
    total = total_of(message, aggregator)
    total[3] += 1
    return bent(message, vector=packed(total, aggregator))


def scaled(factor: int) -> Callable[[Published, Aggregator], Published]:
    def change(message: Published, aggregator: Aggregator) -> Published:
        tag = encode_tag(decode_tag(message.tag) * factor % PRIME)
        return bent(message, vector=packed(total_of(message, aggregator) * factor, aggregator), tag=tag)

    return change


def wrong_tag(message: Published, aggregator: Aggregator) -> Published:
    return bent(message, tag=encode_tag((decode_tag(message.tag) + 1) % PRIME))


FORGERIES = {"offset": with_offset, "zeroed": scaled(0), "negated": scaled(-1), "wrong tag": wrong_tag}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_sum_is_refused_by_every_node(name: str) -> None:
    with pytest.raises(WrongSum, match="tag"):
        run_with(FORGERIES[name], Client).run()


@pytest.mark.parametrize("name", FORGERIES)
def test_the_same_forgery_passes_where_the_check_is_off(name: str) -> None:
    outcome = run_with(FORGERIES[name], Unchecking).run()
    assert len(outcome.receipt.signatures) == 5


def test_a_tag_beyond_the_field_is_its_senders_fault() -> None:
    config = configure(5, dropouts=1, colluders=1)

    def tamper(stage: Stage, node: int, data: bytes) -> bytes:
        if stage is not Stage.MASKED_INPUT or node != 2:
            return data
        message = decode(MaskedInput, data, config.limits, node)
        resigned = MaskedInput(**{**fields_of(message), "tag": b"\xff" * 8, "signature": b""})
        signature = identities(5)[2].sign(MaskedInput.TYPE, resigned.body())
        return encode(MaskedInput(**{**fields_of(resigned), "signature": signature}))

    outcome = Round(config, random_vectors(config, 1), tamper=tamper).run()
    (event,) = outcome.rejected
    assert isinstance(event, Rejected)
    assert isinstance(event.fault, MalformedMessage)
    assert event.sender == 2
    assert outcome.aggregator.survivors == (0, 1, 3, 4)
