"""Sealed blocks: opened with their key under their own name, and in no other way."""

import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_aead_aegis256_decrypt

from backend.blockstore import errors, sealed
from backend.blockstore.sealed import AccountKey, Algorithm, BlockName
from drivefs.protocol.ids import AccountId, BlockId

NAME = BlockName(AccountId(7), BlockId(b"\x11" * 32), 1)
KEY = AccountKey(1, b"\x22" * 32)
ALGORITHMS = list(Algorithm)


def seal(payload: bytes, algorithm: Algorithm) -> bytes:
    how = sealed.Seal(KEY, algorithm, os.urandom)
    data = bytearray(how.length(len(payload)))
    how.seal_into(memoryview(data), payload, NAME)
    return bytes(data)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(payload=st.binary(max_size=1000))
def test_what_is_sealed_opens(algorithm: Algorithm, payload: bytes) -> None:
    data = seal(payload, algorithm)
    assert sealed.unseal(data, NAME, KEY) == payload
    assert sealed.key_number(data) == KEY.number


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_sealing_twice_gives_nothing_in_common(algorithm: Algorithm) -> None:
    first, second = seal(bytes(64), algorithm), seal(bytes(64), algorithm)
    assert first[6:] != second[6:]
    assert bytes(16) not in first


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    "name",
    [
        replace(NAME, account=AccountId(8)),
        replace(NAME, block=BlockId(b"\x12" + NAME.block[1:])),
        replace(NAME, generation=2),
    ],
)
def test_a_sealed_block_opens_under_no_other_name(algorithm: Algorithm, name: BlockName) -> None:
    with pytest.raises(errors.SealBroken):
        sealed.unseal(seal(b"payload", algorithm), name, KEY)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_another_key_does_not_open_it(algorithm: Algorithm) -> None:
    with pytest.raises(errors.SealBroken):
        sealed.unseal(seal(b"payload", algorithm), NAME, AccountKey(1, b"\x23" * 32))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_change_of_any_bit_is_noticed(algorithm: Algorithm) -> None:
    data = seal(b"payload", algorithm)
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(errors.SealBroken):
            sealed.unseal(bytes(damaged), NAME, KEY)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_block_cut_short_anywhere_is_noticed(algorithm: Algorithm) -> None:
    data = seal(b"payload", algorithm)
    for length in range(len(data)):
        with pytest.raises(errors.SealBroken):
            sealed.unseal(data[:length], NAME, KEY)


def test_each_block_has_a_key_of_its_own() -> None:
    names = [NAME, replace(NAME, generation=2), replace(NAME, account=AccountId(8))]
    secrets = {sealed._block_secret(KEY, name.packed()) for name in names}
    assert len(secrets) == 3
    assert KEY.secret not in secrets


def test_aegis_is_the_one_that_others_know() -> None:
    data = seal(b"payload", Algorithm.AEGIS_256)
    nonce, body = data[6:38], data[38:]
    secret = sealed._block_secret(KEY, NAME.packed())
    assert crypto_aead_aegis256_decrypt(body, data[:38] + NAME.packed(), nonce, secret) == b"payload"


def test_secrets_are_not_shown() -> None:
    assert "22" not in repr(KEY)


def test_the_algorithm_follows_the_processor() -> None:
    assert sealed.preferred_algorithm(True) is Algorithm.AEGIS_256X4
    assert sealed.preferred_algorithm(False) is Algorithm.XCHACHA20_POLY1305
