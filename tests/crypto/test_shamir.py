"""Any t shares give the secret; t - 1 shares fit every secret equally well."""

from __future__ import annotations

import hashlib
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.shamir import (
    PRIME,
    SHARE_BYTES,
    lagrange_weights,
    parse_share,
    recover_secret,
    share_secret,
)

SECRETS = st.binary(min_size=32, max_size=32)
KEY = hashlib.sha256(b"coefficients").digest()
SECRET = hashlib.sha256(b"secret").digest()


@st.composite
def _sharings(draw: st.DrawFn) -> tuple[bytes, int, list[int], bytes]:
    """Secret, threshold, points in any order, coefficient key."""
    points = draw(st.lists(st.integers(1, 1000), min_size=1, max_size=9, unique=True))
    return draw(SECRETS), draw(st.integers(1, len(points))), points, draw(SECRETS)


def _is_probable_prime(number: int) -> bool:
    """Miller and Rabin with the first 48 primes as bases: a composite passes each with chance at most 1/4."""
    bases = [base for base in range(2, 224) if all(base % divisor for divisor in range(2, base))]
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in bases:
        power = pow(base, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


def test_the_modulus_is_the_first_prime_above_two_to_the_256() -> None:
    assert _is_probable_prime(PRIME)
    assert PRIME > 2**256
    assert not any(_is_probable_prime(number) for number in range(2**256 + 1, PRIME, 2))


@given(_sharings(), st.data())
def test_any_t_of_n_shares_give_the_secret_back(
    sharing: tuple[bytes, int, list[int], bytes], data: st.DataObject
) -> None:
    secret, threshold, points, key = sharing
    shares = share_secret(secret, threshold, points, key)
    assert shares.keys() == set(points)
    chosen = data.draw(st.permutations(points), label="who is left")[:threshold]
    assert recover_secret({point: shares[point] for point in chosen}, threshold) == secret


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32], ids=["zero", "largest"])
def test_the_smallest_and_the_largest_secret_are_shared_too(secret: bytes) -> None:
    shares = share_secret(secret, 3, [1, 2, 3, 4], KEY)
    for chosen in combinations(shares, 3):
        assert recover_secret({point: shares[point] for point in chosen}, 3) == secret


@given(_sharings(), SECRETS, st.data())
def test_any_t_minus_one_shares_fit_every_secret(
    sharing: tuple[bytes, int, list[int], bytes], other_secret: bytes, data: st.DataObject
) -> None:
    # Through t - 1 shares and any value at zero goes exactly one polynomial of degree below t. So for every
    # secret there is exactly one choice of coefficients that gives these very shares; the coefficients are
    # uniform; hence the shares say nothing. Here that polynomial is built, and its missing share recovers
    # the other secret.
    secret, threshold, points, key = sharing
    shares = share_secret(secret, threshold, points, key)
    known = data.draw(st.permutations(points), label="who colludes")[: threshold - 1]
    nodes = {0: int.from_bytes(other_secret, "big"), **{point: parse_share(shares[point]) for point in known}}
    missing = max(points) + 1
    value = 0
    for node, at_node in nodes.items():
        term = at_node
        for other in nodes:
            if other != node:
                term = term * (missing - other) * pow(node - other, -1, PRIME) % PRIME
        value = (value + term) % PRIME
    forged = {point: shares[point] for point in known} | {missing: value.to_bytes(SHARE_BYTES, "big")}
    assert recover_secret(forged, threshold) == other_secret


@given(_sharings(), st.integers(1, PRIME - 1), st.data())
def test_one_wrong_share_never_gives_the_right_secret(
    sharing: tuple[bytes, int, list[int], bytes], shift: int, data: st.DataObject
) -> None:
    secret, threshold, points, key = sharing
    shares = share_secret(secret, threshold, points, key)
    chosen = {point: shares[point] for point in points[:threshold]}
    liar = data.draw(st.sampled_from(points[:threshold]), label="who lies")
    chosen[liar] = ((parse_share(chosen[liar]) + shift) % PRIME).to_bytes(SHARE_BYTES, "big")
    try:
        assert recover_secret(chosen, threshold) != secret
    except ValueError as error:
        assert "32-byte secret" in str(error)  # noqa: PT017 - either outcome is right


def test_shares_depend_on_the_coefficient_key_and_on_nothing_random() -> None:
    shares = share_secret(SECRET, 3, [1, 2, 3, 4, 5], KEY)
    assert shares == share_secret(SECRET, 3, [5, 4, 3, 2, 1], KEY)
    other = share_secret(SECRET, 3, [1, 2, 3, 4, 5], SECRET)
    assert all(shares[point] != other[point] for point in shares)


def test_one_share_too_few_does_not_give_the_secret() -> None:
    # It would if the leading coefficient were zero.
    shares = share_secret(SECRET, 4, [1, 2, 3, 4], KEY)
    for fewer in combinations(shares, 3):
        with pytest.raises(ValueError, match="4 shares are needed"):
            recover_secret({point: shares[point] for point in fewer}, 4)
        weights = zip(fewer, lagrange_weights(fewer), strict=True)
        guess = sum(weight * parse_share(shares[point]) for point, weight in weights) % PRIME
        assert guess != int.from_bytes(SECRET, "big")


def test_a_threshold_of_one_gives_everybody_the_secret() -> None:
    shares = share_secret(SECRET, 1, [1, 2], KEY)
    assert {share[1:] for share in shares.values()} == {SECRET}


@pytest.mark.parametrize("count", [0, 2, 4])
def test_other_than_t_shares_are_refused(count: int) -> None:
    shares = share_secret(SECRET, 3, [1, 2, 3, 4], KEY)
    with pytest.raises(ValueError, match=f"3 shares are needed, {count} were given"):
        recover_secret(dict(list(shares.items())[:count]), 3)


def test_no_shares_at_all_are_not_enough_for_a_threshold_of_zero() -> None:
    with pytest.raises(ValueError, match="0 shares are needed"):
        recover_secret({}, 0)


@pytest.mark.parametrize(
    ("share", "complaint"),
    [
        (b"", "33 bytes"),
        (bytes(32), "33 bytes"),
        (bytes(34), "33 bytes"),
        (PRIME.to_bytes(33, "big"), "below the prime"),
        (b"\xff" * 33, "below the prime"),
    ],
    ids=["empty", "short", "long", "the-prime", "largest"],
)
def test_a_malformed_share_is_refused(share: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_share(share)
    shares = share_secret(SECRET, 2, [1, 2, 3], KEY)
    with pytest.raises(ValueError, match=complaint):
        recover_secret({1: shares[1], 2: share}, 2)


def test_shares_of_a_number_that_is_no_32_byte_secret_are_refused() -> None:
    with pytest.raises(ValueError, match="32-byte secret"):
        recover_secret({1: (2**256).to_bytes(33, "big")}, 1)


@pytest.mark.parametrize(
    ("secret", "threshold", "points"),
    [
        (bytes(31), 2, [1, 2]),
        (bytes(33), 2, [1, 2]),
        (SECRET, 0, [1, 2]),
        (SECRET, 3, [1, 2]),
        (SECRET, 1, []),
        (SECRET, 2, [1, 1]),
        (SECRET, 2, [0, 1]),
        (SECRET, 2, [-1, 1]),
        (SECRET, 2, [1, PRIME]),
    ],
    ids=[
        "short-secret",
        "long-secret",
        "zero-threshold",
        "threshold-above-n",
        "nobody",
        "same-point-twice",
        "point-zero-is-the-secret",
        "negative-point",
        "point-zero-again-modulo-the-prime",
    ],
)
def test_a_sharing_that_makes_no_sense_is_refused(secret: bytes, threshold: int, points: list[int]) -> None:
    with pytest.raises(ValueError, match=r"secret has|threshold|points"):
        share_secret(secret, threshold, points, KEY)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=8, unique=True))
def test_lagrange_weights_give_the_value_at_zero_of_every_small_polynomial(points: list[int]) -> None:
    weights = lagrange_weights(tuple(points))
    for degree in range(len(points)):
        powers = (pow(point, degree, PRIME) for point in points)
        at_zero = sum(weight * power for weight, power in zip(weights, powers, strict=True)) % PRIME
        assert at_zero == (1 if degree == 0 else 0)
