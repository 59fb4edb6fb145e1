"""Secure sums equal clear sums, bit for bit, whatever the group, the ring and the seats that are lost."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learning.secagg.errors import SeatsLostError, ShareError
from learning.secagg.seeds import SUPPORTED, quorum
from tests.support.secagg_star import clear_sum, make_context, make_star, member_id, package, ring_vector

RINGS = [*range(8, 33), 64]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), shape=st.sampled_from(SUPPORTED), k=st.sampled_from(RINGS), d=st.integers(1, 70))
def test_secure_sum_equals_clear_sum_for_any_shape_ring_and_survivable_loss(data, shape, k, d):
    """Any subset of contributors, seats lost before agreement, before release and after some released: same bits."""
    m, t = shape
    context = make_context(k=k, d=d)
    n = data.draw(st.integers(2, 5))
    star = make_star(m, t, context=context, members=n)
    vectors = {member_id(number): ring_vector(context, number) for number in range(n)}
    partial = data.draw(st.sets(st.integers(0, n - 1), max_size=n - 2))
    spare = min(m - t - 1, m - quorum(m, t))
    silent = data.draw(st.sets(st.integers(0, m - 1), max_size=spare))
    live = [column for column in range(m) if column not in silent]
    for number, name in enumerate(vectors):
        reach = live[:-1] if number in partial else live
        star.upload(package(star, number, vectors[name]), to=reach)
    proposed, statements = star.agree(live)
    assert set(proposed.contributors) == {member_id(number) for number in range(n) if number not in partial}
    lost = frozenset(silent)
    order = data.draw(st.permutations(live))
    crash = data.draw(st.sets(st.sampled_from(order), max_size=m - t - 1 - len(silent)))
    for column in order:
        released_before_crash = column not in crash or data.draw(st.booleans())
        if released_before_crash:
            star.release(column, proposed, statements, lost)
    lost |= crash
    while orders := star.orders(proposed, lost):
        for column in orders:
            star.release(column, proposed, statements, lost)
    expected = clear_sum({name: vectors[name] for name in proposed.contributors}, context)
    assert np.array_equal(star.finish(proposed, lost), expected)


@pytest.mark.parametrize("shape", SUPPORTED)
def test_every_pattern_of_lost_seats_within_reach_is_survived(shape):
    """After agreement any m - t - 1 seats may be lost; one more ends in a named error."""
    m, t = shape
    context = make_context(d=9)
    vectors = {member_id(number): ring_vector(context, number) for number in range(3)}
    base = make_star(m, t, context=context, members=3)
    for number, name in enumerate(vectors):
        base.upload(package(base, number, vectors[name]))
    proposed, statements = base.agree()
    for lost in map(frozenset, itertools.combinations(range(m), m - t - 1)):
        base.shares.clear()
        for column in range(m):
            base.rows[column].released = None
            if column not in lost:
                base.release(column, proposed, statements, lost)
        assert np.array_equal(base.finish(proposed, lost), clear_sum(vectors, context))
    for lost in map(frozenset, itertools.combinations(range(m), m - t)):
        with pytest.raises(SeatsLostError):
            base.orders(proposed, lost)


def test_a_missing_share_is_not_taken_for_a_sum():
    """The collector refuses to add shares that do not cover everything once."""
    context = make_context()
    star = make_star(3, 1, context=context)
    for number in range(3):
        star.upload(package(star, number, ring_vector(context, number)))
    proposed, statements = star.agree()
    star.release(0, proposed, statements)
    star.release(1, proposed, statements)
    assert star.orders(proposed, frozenset()) == {2: None}
    with pytest.raises(ShareError):
        star.finish(proposed)
    star.release(2, proposed, statements)
    star.shares.append(star.shares[0])
    with pytest.raises(ShareError):
        star.finish(proposed)


def test_learners_of_one_provider_are_contributors_of_their_own():
    """A member signs for many contributors, each with its own seeds."""
    context = make_context()
    star = make_star(3, 1, context=context)
    vectors = {f"{member_id(number % 3)}#learner-{number}": ring_vector(context, number) for number in range(12)}
    for number, (name, vector) in enumerate(vectors.items()):
        star.upload(package(star, number % 3, vector, contributor=name))
    proposed, statements = star.agree()
    for column in range(3):
        star.release(column, proposed, statements)
    assert len(proposed.uploads) == 12
    assert np.array_equal(star.finish(proposed), clear_sum(vectors, context))
