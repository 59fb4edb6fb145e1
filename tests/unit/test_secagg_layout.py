"""Values to integers and back: sections, rounding, wrap guard."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learning.secagg.errors import ParameterError, SumRangeError, ValueRangeError, WrapGuardError
from learning.secagg.layout import Section, VectorLayout, best_scale
from learning.secagg.quantize import RoundingStream
from tests.support import secagg_plain

SEED = bytes(range(32))


def layout(k: int = 32) -> VectorLayout:
    """Return weights beside counts."""
    return VectorLayout(
        sections=(
            Section(name="weights", size=40_000, bound=1.0, scale_bits=6),
            Section(name="counts", size=3, bound=100.0),
        ),
        k=k,
    )


def values(seed: int = 1) -> dict[str, np.ndarray]:
    """Return one contribution."""
    return {"weights": np.random.default_rng(seed).uniform(-1, 1, 40_000), "counts": np.array([0, 7, -100])}


@pytest.mark.parametrize("k", [12, 20, 32, 64])
def test_a_sum_of_contributions_decodes_to_the_sum_of_values(k):
    """Counts come back exactly, reals within one unit per contribution."""
    shared = layout(k)
    vectors = [shared.encode(values(seed), RoundingStream(bytes([seed]) * 32)) for seed in range(5)]
    total = sum(vectors[1:], vectors[0])
    if k < 32:
        total &= np.uint32((1 << k) - 1)
    out = shared.decode(total, 5)
    assert out["counts"].tolist() == [0, 35, -500]
    expected = sum(values(seed)["weights"] for seed in range(5))
    assert np.abs(out["weights"] - expected).max() <= 5 / 64
    assert abs((out["weights"] - expected).mean()) < 1e-3


def test_encoding_is_a_function_of_values_and_rounding_seed():
    """The same inputs give the same integers; another seed gives others."""
    first = layout().encode(values(), RoundingStream(SEED))
    assert np.array_equal(first, layout().encode(values(), RoundingStream(SEED)))
    assert not np.array_equal(first, layout().encode(values(), RoundingStream(SEED[::-1])))


def test_rounding_is_unbiased_and_exact_for_whole_numbers():
    """floor(v) + 1 comes up with the probability of the fraction; integers stay."""
    one = VectorLayout(sections=(Section(name="v", size=100_000, bound=10.0, scale_bits=0),))
    out = one.decode(one.encode({"v": np.full(100_000, 2.3)}, RoundingStream(SEED)), 1)["v"]
    assert set(out) == {2.0, 3.0}
    assert abs(out.mean() - 2.3) < 0.01
    out = one.decode(one.encode({"v": np.full(100_000, -3.0)}, RoundingStream(SEED)), 1)["v"]
    assert set(out) == {-3.0}


def test_real_values_are_clipped_to_the_bound():
    """Beyond the bound a real value counts as the bound."""
    one = VectorLayout(sections=(Section(name="v", size=2, bound=1.5, scale_bits=8),))
    out = one.decode(one.encode({"v": [9.0, -9.0]}, RoundingStream(SEED)), 1)["v"]
    assert out.tolist() == [1.5, -1.5]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("section", ["weights", "counts"])
def test_nan_and_infinity_are_refused(bad, section):
    """A value that is not a finite number never becomes an integer."""
    wrong = {name: array.astype(float) for name, array in values().items()}
    wrong[section][1] = bad
    with pytest.raises(ValueRangeError):
        layout().encode(wrong, RoundingStream(SEED))


@pytest.mark.parametrize("bad", [0.5, 101.0, -101.0])
def test_exact_sections_refuse_fractions_and_values_above_the_cap(bad):
    """A count or weight is never clipped or rounded silently."""
    with pytest.raises(ValueRangeError):
        layout().encode(values() | {"counts": np.array([0.0, bad, 0.0])}, RoundingStream(SEED))


@pytest.mark.parametrize(
    "wrong",
    [
        {"weights": np.zeros(40_000)},
        {"weights": np.zeros(40_000), "counts": np.zeros(3), "more": np.zeros(1)},
        {"weights": np.zeros(39_999), "counts": np.zeros(3)},
        {"weights": np.zeros(40_000, dtype=complex), "counts": np.zeros(3)},
    ],
)
def test_sections_must_be_those_of_the_layout(wrong):
    """Missing, unknown, short or non-numeric sections are refused."""
    with pytest.raises(ValueRangeError):
        layout().encode(wrong, RoundingStream(SEED))


@given(
    bound=st.floats(0.001, 1000), n_max=st.integers(1, 100_000), k=st.sampled_from([20, 24, 32, 64]), more=st.just(1)
)
def test_the_best_scale_is_the_largest_that_cannot_wrap(bound, n_max, k, more):
    """One bit more would be refused by the guard."""
    try:
        bits = best_scale(bound, n_max, k)
    except WrapGuardError:
        return
    section = Section(name="v", size=1, bound=bound, scale_bits=bits)
    VectorLayout(sections=(section,), k=k).check(n_max)
    if bits < min(k, 52) + 16 and section.largest < 2**50:
        finer = Section(name="v", size=1, bound=bound, scale_bits=bits + more)
        with pytest.raises(WrapGuardError):
            VectorLayout(sections=(finer,), k=k).check(n_max)


@settings(max_examples=30)
@given(n=st.integers(1, 200), k=st.integers(12, 32), sign=st.sampled_from([-1.0, 1.0]))
def test_nothing_that_the_guard_admits_wraps(n, k, sign):
    """The most extreme contributions sum to the true value at the largest admitted scale."""
    shared = VectorLayout(sections=(Section(name="v", size=1, bound=1.0, scale_bits=best_scale(1.0, n, k)),), k=k)
    one = shared.encode({"v": [sign]}, RoundingStream(SEED))
    total = (one.astype(np.uint64) * np.uint64(n)).astype(np.uint32) & np.uint32((1 << k) - 1)
    assert shared.decode(total, n)["v"].tolist() == [sign * n]


def test_the_wrap_guard_refuses_and_names_the_section():
    """Too many contributions for the ring are refused before they are made."""
    with pytest.raises(WrapGuardError, match="counts"):
        layout(12).check(30)
    with pytest.raises(WrapGuardError):
        VectorLayout(sections=(Section(name="v", size=1, bound=1.0, scale_bits=8),), k=8)
    with pytest.raises(WrapGuardError):
        best_scale(1e9, 1000, 8)


def test_a_sum_beyond_what_n_contributions_can_reach_is_refused():
    """Noise where a sum should be (a wrong share, an over-range vector) does not pass as a model."""
    total = layout().encode(values(), RoundingStream(SEED))
    total[40_001] = 101
    with pytest.raises(SumRangeError):
        layout().decode(total, 1)


def test_decoding_refuses_another_shape():
    """A vector of another length or word is not the layout's sum."""
    with pytest.raises(ParameterError):
        layout().decode(np.zeros(3, dtype="<u4"), 1)
    with pytest.raises(ParameterError):
        layout().decode(np.zeros(40_003, dtype="<u8"), 1)


def test_a_layout_travels_as_json():
    """What is written is read again, with the same digest."""
    assert VectorLayout.from_json(layout().to_json()) == layout()
    assert VectorLayout.from_json(layout().to_json()).digest == layout().digest


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"k": 32},
        {"k": 32.0, "sections": [{"name": "v", "size": 1, "bound": 1.0, "scale_bits": 0}]},
        {"k": 32, "sections": [{"name": "v", "size": 1.5, "bound": 1.0, "scale_bits": 0}]},
        {"k": 32, "sections": [{"name": "v", "size": 1, "bound": "1", "scale_bits": 0}]},
        {"k": 32, "sections": [{"name": "v", "size": 1, "bound": 1.0, "scale_bits": 0, "x": 1}]},
        {"k": 32, "sections": []},
        {"k": 33, "sections": [{"name": "v", "size": 1, "bound": 1.0, "scale_bits": 0}]},
        {"k": 32, "sections": [{"name": "v", "size": 0, "bound": 1.0, "scale_bits": 0}]},
        {"k": 32, "sections": [{"name": "v", "size": 1, "bound": -1.0, "scale_bits": 0}]},
    ],
)
def test_a_malformed_layout_is_refused(wrong):
    """Unknown fields, wrong types and impossible sizes are not a layout."""
    with pytest.raises(ParameterError):
        VectorLayout.from_json(wrong)


def test_rounding_is_the_described_one():
    """Coin i is word i of the key stream; up when coin / 2^32 is below the fraction."""
    one = VectorLayout(sections=(Section(name="v", size=9, bound=4.0, scale_bits=3),))
    plain = [0.1, -0.1, 3.9, -3.99, 0.0, 1.0, 2.55, -2.55, 4.0]
    coins = secagg_plain.mask(SEED, b"orchard/secagg/rounding/1", 9, 32)
    expected = [
        math.floor(value * 8) + (coin / 2**32 < value * 8 - math.floor(value * 8))
        for value, coin in zip(plain, coins, strict=True)
    ]
    assert one.encode({"v": plain}, RoundingStream(SEED)).view("<i4").tolist() == expected


@given(data=st.data(), bits=st.integers(-16, 60), dtype=st.sampled_from([np.float16, np.float32, np.float64]))
def test_every_number_type_is_rounded_exactly(data, bits, dtype):
    """What is written is the rounding of the number as it stands: nothing is lost in a narrow type on the way."""
    bound = min(1.0, 2.0 ** (30 - bits))
    numbers = st.floats(-bound, bound) | st.integers(-9, 9).map(lambda n: n * 2.0**-bits)
    drawn = data.draw(st.lists(numbers, min_size=1, max_size=40))
    plain = np.clip(np.array(drawn), -bound, bound).astype(dtype)
    one = VectorLayout(sections=(Section(name="v", size=len(plain), bound=bound, scale_bits=bits),))
    coins = secagg_plain.mask(SEED, b"orchard/secagg/rounding/1", len(plain), 32)
    clipped = np.clip(plain.astype(np.float64), -bound, bound)
    scaled = [Fraction(float(value)) * Fraction(2) ** bits for value in clipped]
    expected = [
        math.floor(value) + (coin < (value - math.floor(value)) * 2**32)
        for value, coin in zip(scaled, coins, strict=True)
    ]
    assert one.encode({"v": plain}, RoundingStream(SEED)).view("<i4").tolist() == expected


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_numbers_beyond_the_bound_are_clipped_whatever_their_type(dtype):
    """The largest value of a narrow type is clipped without a warning, and loses nothing before."""
    one = VectorLayout(sections=(Section(name="v", size=3, bound=1.5, scale_bits=20),))
    top = np.iinfo(dtype).max if dtype is np.int64 else np.finfo(dtype).max
    out = one.decode(one.encode({"v": np.array([top, 1, -top], dtype=dtype)}, RoundingStream(SEED)), 1)["v"]
    assert out.tolist() == [1.5, 1.0, -1.5]
