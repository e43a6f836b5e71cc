"""Noise has the distribution it says, is never repeated by accident, and its secret stays where it is.

The statistical tests run on a fixed secret, so that they give the same figures every time. Each tolerance is one that
true randomness would miss with a probability below 1e-9 (the inequality is named): a failure means a wrong sampler.
"""

from __future__ import annotations

import copy
import hmac
import math
import pickle
from collections import Counter

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from crypto.kdf import derive
from crypto.randomness import NoiseSecret, expand_public_seed

COUNT = 200_000
LOG = math.log(2e9)
"""ln(2 / 1e-9): what a two-sided exponential tail bound needs."""


def _fixed(count: int) -> bytes:
    return bytes(range(count))


@pytest.fixture
def secret() -> NoiseSecret:
    return NoiseSecret(_fixed)


def _standard(secret: NoiseSecret) -> np.ndarray:
    return secret.stream("statistics").gaussian(COUNT, 1.0)


def test_gaussian_noise_has_mean_zero(secret: NoiseSecret) -> None:
    # The mean is N(0, 1/n): P(|mean| > e) <= 2 exp(-n e^2 / 2).
    assert abs(_standard(secret).mean()) < math.sqrt(2 * LOG / COUNT)


def test_gaussian_noise_has_the_variance_asked_for(secret: NoiseSecret) -> None:
    # Laurent and Massart 2000, lemma 1: P(|chi^2_n / n - 1| > 2 sqrt(t/n) + 2 t/n) <= 2 exp(-t).
    tolerance = 2 * math.sqrt(LOG / COUNT) + 2 * LOG / COUNT
    for deviation in (1.0, 1e-6, 3.7e4):
        noise = secret.stream("variance", str(deviation)).gaussian(COUNT, deviation)
        assert abs(np.mean((noise / deviation) ** 2) - 1) < tolerance


def test_gaussian_noise_has_the_gaussian_distribution(secret: NoiseSecret) -> None:
    # Dvoretzky, Kiefer and Wolfowitz 1956, with Massart's constant: P(sup |F_n - F| > e) <= 2 exp(-2 n e^2).
    ordered = np.sort(_standard(secret))
    below = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in ordered])
    ranks = np.arange(COUNT + 1) / COUNT
    distance = max(np.max(ranks[1:] - below), np.max(below - ranks[:-1]))
    assert distance < math.sqrt(LOG / (2 * COUNT))


def test_gaussian_noise_reaches_into_the_tails_and_not_beyond(secret: NoiseSecret) -> None:
    # Beyond 3.8 lie 1.4e-4 of the mass: 200000 draws miss it with chance exp(-28). Beyond 9 lie 2e-19.
    largest = np.abs(_standard(secret)).max()
    assert 3.8 < largest < 9


def test_neighbouring_draws_are_not_correlated(secret: NoiseSecret) -> None:
    # Box-Muller makes draws in pairs that share a radius (here half the vector apart); they must not show it.
    # The sum of products is a quadratic form of norm 1 and squared Frobenius norm n/2 in standard Gaussians; Laurent
    # and Massart 2000: it exceeds 2 sqrt(t n/2) + 2 t with probability at most 2 exp(-t).
    noise = _standard(secret)
    tolerance = math.sqrt(2 * LOG / COUNT) + 2 * LOG / COUNT
    for lag in (1, 2, COUNT // 2):
        products = noise[: COUNT - lag] * noise[lag:]
        assert abs(products.sum() / COUNT) < tolerance


def test_gaussian_noise_is_not_confined_to_a_coarse_grid(secret: NoiseSecret) -> None:
    # n draws from 2^52 or more floats repeat none (birthday bound 5e-6); a single-precision draw repeats many.
    noise = _standard(secret)
    assert np.unique(noise).size == COUNT
    assert noise.dtype == np.float64


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_any_number_of_draws_can_be_asked_for(secret: NoiseSecret, count: int) -> None:
    assert secret.stream("few").gaussian(count, 2.0).shape == (count,)


@pytest.mark.parametrize("deviation", [0.0, -1.0, math.nan, math.inf])
def test_a_deviation_that_would_give_no_noise_is_refused(secret: NoiseSecret, deviation: float) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        secret.stream("noise").gaussian(10, deviation)


def test_a_negative_count_is_refused(secret: NoiseSecret) -> None:
    with pytest.raises(ValueError, match="not negative"):
        secret.stream("noise").gaussian(-1, 1.0)


def test_uniform_words_have_unbiased_bits(secret: NoiseSecret) -> None:
    # Hoeffding for each of the 64 places, with a union bound over them.
    words = secret.stream("bits").uniform_words(COUNT)
    tolerance = math.sqrt((LOG + math.log(64)) / (2 * COUNT))
    for place in range(64):
        ones = np.mean((words >> np.uint64(place)) & np.uint64(1))
        assert abs(ones - 0.5) < tolerance


def test_a_stream_never_gives_the_same_words_twice(secret: NoiseSecret) -> None:
    stream = secret.stream("words")
    drawn = [word for count in (1, 5, 1, 100, 5) for word in stream.uniform_words(count).tolist()]
    assert len(set(drawn)) == len(drawn)


def test_a_stream_is_keyed_by_its_name_and_by_the_secret(secret: NoiseSecret) -> None:
    names: list[tuple[str | int, ...]] = [
        ("noise", 1),
        ("noise", 2),
        ("noise", "1"),
        ("noise", 1, 1),
        ("noise",),
        ("noise1",),
        (1, "noise"),
        ("nois", "e", 1),
    ]
    words = [tuple(secret.stream(*name).uniform_words(2).tolist()) for name in names]
    other = NoiseSecret(bytes)
    words += [tuple(other.stream(*name).uniform_words(2).tolist()) for name in names]
    assert len(set(words)) == 2 * len(names)


def test_the_same_name_gives_the_same_stream_again(secret: NoiseSecret) -> None:
    first, second = secret.stream("noise", 3, 1), secret.stream("noise", 3, 1)
    for count in (4, 9):
        assert np.array_equal(first.uniform_words(count), second.uniform_words(count))


def test_coins_show_heads_with_their_probability(secret: NoiseSecret) -> None:
    # Hoeffding 1963: P(|mean - p| > e) <= 2 exp(-2 n e^2).
    flips = 20_000
    for probability in (0.02, 0.5, 0.9):
        heads = sum(secret.coin(probability, "coin", str(probability), index) for index in range(flips))
        assert abs(heads / flips - probability) < math.sqrt(LOG / (2 * flips))


def test_a_coin_of_probability_zero_or_one_is_certain(secret: NoiseSecret) -> None:
    assert not any(secret.coin(0.0, index) for index in range(1000))
    assert all(secret.coin(1.0, index) for index in range(1000))


def test_a_coin_depends_on_its_own_name_alone() -> None:
    asked_in_order = NoiseSecret(_fixed)
    order = [asked_in_order.coin(0.5, "patient", index) for index in range(200)]
    asked_backwards = NoiseSecret(_fixed)
    backwards = [asked_backwards.coin(0.5, "patient", index) for index in reversed(range(200))]
    assert order == backwards[::-1]
    assert len(set(order)) == 2


def test_a_coin_is_hmac_sha_256_of_its_name(secret: NoiseSecret) -> None:
    # RFC 2104, with the encoding written out: the coin of ("patient", 7).
    def part(content: bytes) -> bytes:
        return len(content).to_bytes(8, "big") + content

    name = b"secfed/v1" + part(b"name") + part(b"spatient") + part(b"i7")
    tag = hmac.digest(bytes(range(32)), b"secfed/v1" + part(b"coin") + part(name), "sha256")
    threshold = int.from_bytes(tag[:8], "big") / 2**64
    assert secret.coin(threshold + 1e-9, "patient", 7)
    assert not secret.coin(threshold - 1e-9, "patient", 7)


@pytest.mark.parametrize("probability", [-0.01, 1.01, math.nan])
def test_a_coin_without_a_probability_is_refused(secret: NoiseSecret, probability: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        secret.coin(probability, "coin")


def test_choices_are_even(secret: NoiseSecret) -> None:
    # Hoeffding, with a union bound over the five outcomes.
    draws = 20_000
    counts = Counter(secret.choice(5, "record", index) for index in range(draws))
    assert counts.keys() == set(range(5))
    for count in counts.values():
        assert abs(count / draws - 0.2) < math.sqrt((LOG + math.log(5)) / (2 * draws))


def test_a_choice_and_a_coin_of_one_name_are_independent(secret: NoiseSecret) -> None:
    draws = 20_000
    both = sum(secret.coin(0.5, index) and secret.choice(2, index) == 0 for index in range(draws))
    assert abs(both / draws - 0.25) < math.sqrt(LOG / (2 * draws))


def test_a_choice_of_one_is_no_choice(secret: NoiseSecret) -> None:
    assert {secret.choice(1, index) for index in range(100)} == {0}


@pytest.mark.parametrize("bound", [-1, 0, 2**32 + 1])
def test_a_choice_among_nothing_or_too_much_is_refused(secret: NoiseSecret, bound: int) -> None:
    with pytest.raises(ValueError, match="1 to"):
        secret.choice(bound, "record")


def test_two_secrets_from_the_operating_system_differ() -> None:
    one, other = NoiseSecret(), NoiseSecret()
    assert one.stream("x").uniform_words(1) != other.stream("x").uniform_words(1)


def test_the_secret_is_32_bytes_of_the_entropy_that_was_given() -> None:
    asked = []

    def entropy(count: int) -> bytes:
        asked.append(count)
        return bytes(count)

    NoiseSecret(entropy)
    assert asked == [32]


def test_an_entropy_source_that_gives_too_little_is_refused() -> None:
    with pytest.raises(ValueError, match="gave 31 bytes"):
        NoiseSecret(lambda count: bytes(count - 1))


def test_a_wiped_secret_is_gone_and_every_use_says_so(secret: NoiseSecret) -> None:
    held = secret._secret
    assert held == bytes(range(32))
    secret.wipe()
    assert held == bytes(32)
    for use in (
        lambda: secret.stream("noise"),
        lambda: secret.coin(0.5, "patient"),
        lambda: secret.choice(2, "record"),
    ):
        with pytest.raises(RuntimeError, match="wiped"):
            use()
    secret.wipe()


@pytest.mark.parametrize("what", ["secret", "stream"])
def test_neither_a_secret_nor_its_stream_is_pickled_copied_or_printed(secret: NoiseSecret, what: str) -> None:
    holder = secret if what == "secret" else secret.stream("noise")
    for take in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="never pickled or copied"):
            take(holder)
    assert bytes(range(32)).hex() not in repr(holder)


def test_a_public_seed_expands_to_aes_ctr_under_a_derived_key() -> None:
    seed = bytes(range(32))
    key = derive(seed, "public seed", b"layer 0")
    stream = Cipher(AES256(key), CTR(bytes(16))).encryptor().update(bytes(8 * 5))
    assert expand_public_seed(seed, "layer 0", 5).tolist() == np.frombuffer(stream, dtype="<u8").tolist()
    assert not np.any(expand_public_seed(seed, "layer 0", 5) == expand_public_seed(seed, "layer 1", 5))
