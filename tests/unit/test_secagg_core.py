"""Packing, masks, seed tables and sealed boxes."""

import hashlib
import itertools

import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from learning.secagg.errors import BoxError, ParameterError, SeatsLostError, VectorError
from learning.secagg.keys import SealingKey, box_info, new_sealing_key, seal
from learning.secagg.masking import accumulate, hkdf
from learning.secagg.packing import is_vector_digest, pack, packed_size, ring_dtype, unpack, vector_digest
from learning.secagg.seeds import SUPPORTED, quorum, threshold_table
from tests.support import secagg_plain

RINGS = [*range(8, 33), 64]


@given(data=st.data(), k=st.sampled_from(RINGS), d=st.integers(1, 60))
def test_packing_is_the_plain_bit_string_and_reversible(data, k, d):
    """Value i stands at bit i * k of one little-endian integer."""
    plain = data.draw(st.lists(st.integers(0, 2**k - 1), min_size=d, max_size=d))
    vector = np.array(plain, dtype=ring_dtype(k))
    packed = bytes(pack(vector, k))
    assert packed == secagg_plain.pack(plain, k)
    assert unpack(packed, d, k).tolist() == plain


@pytest.mark.parametrize("k", [8, 13, 20, 32, 64])
@pytest.mark.parametrize("change", [-1, 1])
def test_truncated_and_over_long_vectors_are_refused(k, change):
    """A vector is exactly as long as its values take."""
    with pytest.raises(VectorError):
        unpack(bytes(packed_size(9, k) + change), 9, k)


def test_spare_bits_must_be_zero():
    """There is one encoding of a vector only."""
    with pytest.raises(VectorError):
        unpack(b"\0\x80", 1, 9)


def test_a_vector_is_named_by_blake3():
    """The digest of nothing is the one in the BLAKE3 specification; other forms are no vector's name."""
    empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert vector_digest(b"") == f"blake3:{empty}"
    assert is_vector_digest(f"blake3:{empty}")
    for other in (empty, f"sha256:{empty}", f"blake3:{empty.upper()}", f"blake3:{empty}0", f"blake3:{empty}\n", ""):
        assert not is_vector_digest(other)


@pytest.mark.parametrize("k", [0, 7, 33, 63, 65])
def test_rings_that_do_not_exist_are_refused(k):
    """A ring has 8 to 32 bits, or 64."""
    with pytest.raises(ParameterError):
        ring_dtype(k)


def test_packing_refuses_the_wrong_word():
    """A 64-bit vector is not packed as a 32-bit one."""
    with pytest.raises(ParameterError):
        pack(np.zeros(3, dtype="<u8"), 32)


@given(st.binary(min_size=1, max_size=80), st.binary(max_size=80), st.integers(1, 200))
def test_hkdf_is_rfc_5869(seed, info, length):
    """The key derivation agrees with another implementation."""
    other = HKDF(algorithm=hashes.SHA256(), length=length, salt=None, info=info)
    assert hkdf(seed, info, length) == other.derive(seed)


@pytest.mark.parametrize("k", [20, 32, 64])
def test_masks_are_those_of_the_plain_description(k):
    """AES-CTR, key and counter from HKDF, little-endian words."""
    vector = np.zeros(77, dtype=ring_dtype(k))
    accumulate(vector, [(bytes([1]) * 32, b"a")])
    expected = secagg_plain.mask(bytes([1]) * 32, b"a", 77, k)
    assert [int(value) % 2**k for value in vector] == expected


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
def test_masks_cancel_across_blocks_and_batches(dtype):
    """Adding and subtracting more streams than one batch over more values than one block leaves the vector."""
    vector = np.arange(70_001, dtype=dtype)
    streams = [(hashlib.sha256(bytes([i % 256, i // 256])).digest(), b"x") for i in range(520)]
    accumulate(vector, streams[:3])
    accumulate(vector, streams)
    accumulate(vector, streams[::-1], subtract=True)
    accumulate(vector, streams[:3], subtract=True)
    assert np.array_equal(vector, np.arange(70_001, dtype=dtype))


def test_masks_refuse_short_seeds_and_strided_vectors():
    """A seed has 256 bits; a vector lies in one piece."""
    with pytest.raises(ParameterError):
        accumulate(np.zeros(4, dtype="<u4"), [(b"short", b"x")])
    with pytest.raises(ParameterError):
        accumulate(np.zeros(8, dtype="<u4")[::2], [])


@pytest.mark.parametrize(("m", "t"), SUPPORTED)
def test_every_coalition_of_t_misses_a_seed_and_every_m_minus_t_hold_all(m, t):
    """The access structure is the threshold one, and the work is spread."""
    table = threshold_table(m, t)
    assert [sorted(seats) for seats in table.holders] == secagg_plain.holders(m, t)
    for coalition in itertools.combinations(range(m), t):
        assert any(set(seats).isdisjoint(coalition) for seats in table.holders)
    for coalition in itertools.combinations(range(m), t + 1):
        assert all(not set(seats).isdisjoint(coalition) for seats in table.holders)
    work = [sum(table.worker(index) == seat for index in range(len(table))) for seat in range(m)]
    assert max(work) - min(work) <= (2 if (m, t) == (5, 3) else 1)


def test_work_passes_to_the_next_living_holder():
    """A seed whose holders are all lost has no worker."""
    table = threshold_table(5, 2)
    first, second, third = table.holders[0]
    assert table.worker(0, {first}) == second
    assert table.worker(0, {first, second}) == third
    with pytest.raises(SeatsLostError):
        table.worker(0, {first, second, third})


@pytest.mark.parametrize(("m", "t"), [(1, 1), (3, 0), (3, 3)])
def test_shapes_that_share_nothing_are_refused(m, t):
    """There is at least one corrupt seat to fear and one to trust."""
    with pytest.raises(ParameterError):
        threshold_table(m, t)


@pytest.mark.parametrize(("m", "t"), SUPPORTED)
def test_two_quorums_share_an_honest_seat(m, t):
    """2q - m > t, and the quorum is reachable."""
    assert 2 * quorum(m, t) - m > t
    assert quorum(m, t) <= m


@pytest.mark.parametrize("suite", ["x25519", "mlkem768-x25519"])
def test_a_box_opens_only_for_its_seat_and_context(suite):
    """Another key, another context, another contributor or another seat does not open it."""
    key = new_sealing_key(suite)
    info = box_info("aa" * 32, "did:web:a", "did:web:s")
    box = seal(b"seeds", key.public_key, info)
    assert SealingKey(private_bytes=key.private_bytes).open(box, info) == b"seeds"
    for wrong in (
        box_info("ab" * 32, "did:web:a", "did:web:s"),
        box_info("aa" * 32, "did:web:b", "did:web:s"),
        box_info("aa" * 32, "did:web:a", "did:web:t"),
    ):
        with pytest.raises(BoxError):
            key.open(box, wrong)
    with pytest.raises(BoxError):
        new_sealing_key(suite).open(box, info)
    with pytest.raises(BoxError):
        key.open(b"short", info)
    assert repr(key) == "SealingKey()"


@pytest.mark.parametrize("key", ["", "not base64!", "AAAA", "A" * 1000])
def test_sealing_refuses_what_is_no_key(key):
    """A malformed public key is named, not used."""
    with pytest.raises(ParameterError):
        seal(b"seeds", key, b"")
