"""What seats and the collector refuse once uploads are in: sets, releases, shares; one test each."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from learning.secagg.collector import add_clear
from learning.secagg.context import Group, RoundContext
from learning.secagg.contributor import prepare_clear
from learning.secagg.errors import (
    CohortFloorError,
    HeaderError,
    ParameterError,
    QuorumError,
    SeatsLostError,
    SecondReleaseError,
    SecondSetError,
    SecureAggregationError,
    SetError,
    ShareError,
    WrapGuardError,
)
from learning.secagg.seat import release
from learning.secagg.sets import ContributorSet, equivocations, propose_set, verify_quorum
from learning.secagg.shares import verify_share
from tests.support.secagg_star import (
    Star,
    clear_sum,
    make_context,
    make_group,
    make_star,
    member_id,
    member_signer,
    package,
    ring_vector,
)


def star_with(uploads: int, m: int = 3, t: int = 1, **changes: Any) -> Star:
    """Return a star in which the first ``uploads`` members have uploaded."""
    star = make_star(m, t, context=make_context(**changes), members=max(uploads, m))
    for number in range(uploads):
        star.upload(package(star, number, ring_vector(star.context, number)))
    return star


def with_context(star: Star, **changes: Any) -> Star:
    """Return the same seats in another attempt, with their rows."""
    return dataclasses.replace(star, context=dataclasses.replace(star.context, **changes), shares=[])


# The set


def test_two_uploads_shown_to_two_seats_are_found_and_left_out():
    """An equivocating contributor is not in the set, and the digests are kept for attribution."""
    star = star_with(2)
    vector = ring_vector(star.context, 2)
    star.upload(package(star, 2, vector), to=[0, 1])
    star.upload(package(star, 2, vector), to=[2])
    proposed, _ = star.agree()
    assert proposed.contributors == (member_id(0), member_id(1))
    reports = {member_id(column): star.received(column) for column in range(3)}
    assert list(equivocations(reports)) == [member_id(2)]


def test_an_upload_whose_vector_did_not_arrive_is_not_received():
    """A carrier counts a contributor once it holds header and vector."""
    star = star_with(2)
    carrier = star.group.carriers(star.context, member_id(0))[0]
    del star.rows[carrier].vectors[member_id(0)]
    assert list(star.received(carrier)) == [member_id(1)]


def test_a_set_below_the_floor_is_neither_proposed_nor_signed():
    """Fewer than n_min contributors: no sum at all."""
    star = star_with(1)
    with pytest.raises(CohortFloorError):
        star.agree()
    with pytest.raises(CohortFloorError):
        star.sign(0, ContributorSet.of(star.received(0)))


def test_a_set_larger_than_the_ring_holds_is_refused():
    """n_max is the wrap guard's number."""
    star = star_with(3)
    star.group = dataclasses.replace(star.group, n_max=2)
    with pytest.raises(WrapGuardError):
        star.sign(0, ContributorSet.of(star.received(0)))


def test_a_set_with_an_upload_that_the_seat_does_not_hold_is_refused():
    """Neither unknown contributors nor other bytes of known ones are signed."""
    star = star_with(3)
    with pytest.raises(SetError) as caught:
        star.sign(0, ContributorSet.of(star.received(0) | {member_id(7): "ab" * 32}))
    assert caught.value.sender == member_id(7)
    with pytest.raises(SetError):
        star.sign(0, ContributorSet.of(star.received(0) | {member_id(1): "ab" * 32}))


def test_a_participant_without_a_seat_does_not_sign():
    """Only seats sign sets."""
    star = star_with(3)
    star.group = make_group(2, 1)
    with pytest.raises(SetError):
        star.sign(2, ContributorSet.of(star.received(2)))


def test_a_second_set_is_refused_in_the_same_and_in_later_attempts():
    """One set of contributors per round; the same set again gives the same signature."""
    star = star_with(3)
    proposed, statements = star.agree()
    assert star.sign(0, proposed) == statements[0]
    smaller = ContributorSet.of({name: star.received(0)[name] for name in proposed.contributors[:2]})
    with pytest.raises(SecondSetError):
        star.sign(0, smaller)
    later = with_context(star, attempt=2)
    for row in later.rows:
        row.headers.clear()
        row.vectors.clear()
    for number in range(3):
        later.upload(package(later, number, ring_vector(later.context, number)))
    with pytest.raises(SecondSetError):
        later.sign(0, ContributorSet.of({name: later.received(0)[name] for name in proposed.contributors[:2]}))
    assert later.sign(0, ContributorSet.of(later.received(0)))
    following = with_context(later, round=2)
    assert following.sign(0, ContributorSet.of(dict(list(following.received(0).items())[:2])))


def test_the_same_contributors_with_other_uploads_are_a_second_set():
    """Within an attempt the uploads are fixed as well."""
    star = star_with(3)
    proposed, _ = star.agree()
    name = proposed.contributors[0]
    row = star.rows[0]
    row.headers[name] = dataclasses.replace(row.headers[name], digest="ab" * 32)
    with pytest.raises(SecondSetError):
        star.sign(0, ContributorSet.of(star.received(0)))


@pytest.mark.parametrize(
    "value", [None, [["b", "x"], ["a", "x"]], [["a", "x"], ["a", "y"]], [["a"]], [["a", 1]], ["a"]]
)
def test_a_malformed_set_is_refused(value):
    """A set is sorted, without doubles, and nothing else."""
    with pytest.raises(SetError):
        ContributorSet.from_json(value)


def test_a_set_travels_as_json():
    """What is written is read again."""
    proposed = ContributorSet.of({"b": "y", "a": "x"})
    assert ContributorSet.from_json(proposed.to_json()) == proposed


# The release


def test_too_few_reports_and_too_few_signatures_give_no_sum():
    """(5, 2) needs four seats to agree."""
    star = star_with(3, m=5, t=2)
    with pytest.raises(QuorumError):
        star.agree([0, 1, 2])
    proposed, statements = star.agree([0, 1, 2, 3])
    with pytest.raises(QuorumError):
        star.release(0, proposed, statements[:3])
    with pytest.raises(QuorumError):
        star.release(0, proposed, [*statements[:3], statements[0]])


def test_forged_strange_and_other_signatures_are_refused():
    """A signature counts only from a seat, on this set, in this context."""
    star = star_with(3)
    proposed, statements = star.agree()
    forged_one = statements[0] | {"signature": statements[1]["signature"]}
    smaller = ContributorSet.of({name: star.received(0)[name] for name in proposed.contributors[:2]})
    stranger = member_signer(9).sign("secagg-set", proposed.statement(star.context, member_id(9)))
    other = [member_signer(0).sign("secagg-set", smaller.statement(star.context, member_id(0)))]
    replayed = member_signer(0).sign(
        "secagg-set", proposed.statement(dataclasses.replace(star.context, round=2), member_id(0))
    )
    for wrong in (forged_one, stranger, *other, replayed, {}, {"payload": {"seat": 3}}):
        with pytest.raises(QuorumError):
            verify_quorum(proposed, [wrong, *statements[1:]], context=star.context, group=star.group)


def test_a_second_release_is_refused():
    """A share goes out once; afterwards only the work of newly lost seats."""
    star = star_with(3)
    proposed, statements = star.agree()
    star.release(0, proposed, statements)
    with pytest.raises(SecondReleaseError):
        star.release(0, proposed, statements)
    star.release(0, proposed, statements, frozenset({2}))
    with pytest.raises(SecondReleaseError):
        star.release(0, proposed, statements, frozenset({1}))
    with pytest.raises(SecondReleaseError):
        star.release(1, proposed, statements, frozenset({1}))


def test_work_taken_over_after_release_completes_the_sum():
    """A seat lost after the others have released costs nothing but one more share."""
    star = star_with(3)
    proposed, statements = star.agree()
    star.release(0, proposed, statements)
    star.release(1, proposed, statements)
    lost = frozenset({2})
    for column, last in star.orders(proposed, lost).items():
        assert last == frozenset()
        star.release(column, proposed, statements, lost)
    vectors = {member_id(number): ring_vector(star.context, number) for number in range(3)}
    assert np.array_equal(star.finish(proposed, lost), clear_sum(vectors, star.context))


def test_more_lost_seats_than_holders_end_the_round_by_name():
    """With m - t seats lost some seed is gone."""
    star = star_with(3)
    proposed, statements = star.agree()
    with pytest.raises(SeatsLostError):
        star.release(0, proposed, statements, frozenset({1, 2}))


def test_a_vector_stored_by_one_lost_seat_only_ends_the_round_by_name():
    """One copy saves space and survives no carrier."""
    star = star_with(3)
    star.group = dataclasses.replace(star.group, copies=1)
    proposed, statements = star.agree()
    carrier = star.group.carriers(star.context, member_id(0))[0]
    other = (carrier + 1) % 3
    with pytest.raises(SeatsLostError):
        star.release(other, proposed, statements, frozenset({carrier}))


def test_a_set_below_the_floor_is_not_released_whoever_signed_it():
    """Seats that collude to sign a tiny set do not make an honest one release."""
    star = star_with(3)
    tiny = ContributorSet.of({member_id(0): star.received(0)[member_id(0)]})
    statements = [
        member_signer(column).sign("secagg-set", tiny.statement(star.context, member_id(column))) for column in range(3)
    ]
    with pytest.raises(CohortFloorError):
        star.release(0, tiny, statements)


def test_stored_seeds_of_the_wrong_number_are_refused():
    """A row that was written for another group is not used."""
    star = star_with(3)
    proposed, statements = star.agree()
    with pytest.raises(HeaderError):
        release(
            proposed,
            statements,
            column=0,
            context=star.context,
            group=star.group,
            signer=member_signer(0),
            lost=frozenset(),
            released=None,
            seeds=lambda _: (bytes(32),),
            vectors=star.rows[0].vectors.__getitem__,
        )


def test_shares_that_are_not_the_signed_ones_are_refused():
    """A share names its seat, set and bytes."""
    star = star_with(3)
    proposed, statements = star.agree()
    star.release(0, proposed, statements)
    share = release(
        proposed,
        statements,
        column=1,
        context=star.context,
        group=star.group,
        signer=member_signer(1),
        lost=frozenset(),
        released=None,
        seeds=lambda name: (bytes(32),) * len(star.group.table.held_by(1)),
        vectors=star.rows[1].vectors.__getitem__,
    )
    good, data = share.document, bytes(share.vector)
    payload = good["payload"]
    smaller = ContributorSet.of({name: star.received(0)[name] for name in proposed.contributors[:2]})
    cases: list[tuple[Any, bytes, ContributorSet]] = [
        ({}, data, proposed),
        (good | {"payload": payload | {"lost": [2]}}, data, proposed),
        (good, data[:-1], proposed),
        (good, b"\1" + data[1:], proposed),
        (good, data, smaller),
        (member_signer(9).sign("secagg-share", payload | {"seat": member_id(9)}), data, proposed),
        (member_signer(1).sign("secagg-share", payload | {"lost": [3]}), data, proposed),
        (member_signer(1).sign("secagg-share", payload | {"lost": "0"}), data, proposed),
    ]
    for document, vector, agreed in cases:
        with pytest.raises(ShareError):
            verify_share(document, vector, agreed, context=star.context, group=star.group)
    assert verify_share(good, data, proposed, context=star.context, group=star.group).column == 1


# Groups, rounds and clear mode


def test_seats_of_one_organisation_are_no_group():
    """Distinct participants and organisations."""
    group = make_group(3, 1)
    twin = dataclasses.replace(group.seats[1], organisation=group.seats[0].organisation)
    with pytest.raises(ParameterError):
        dataclasses.replace(group, seats=(group.seats[0], twin, group.seats[2]))
    with pytest.raises(ParameterError):
        dataclasses.replace(group, seats=(group.seats[0],) * 3)


@pytest.mark.parametrize(
    "changes", [{"n_min": 1}, {"n_min": 9, "n_max": 8}, {"copies": 0}, {"copies": 4}, {"threshold": 3}]
)
def test_impossible_groups_are_refused(changes):
    """Floors, copies and thresholds make sense."""
    value: dict[str, Any] = {"threshold": 1, "n_min": 2, "n_max": 9, "copies": 2, "seats": make_group(3, 1).seats}
    with pytest.raises(ParameterError):
        Group(**(value | changes))


@pytest.mark.parametrize("changes", [{"d": 0}, {"k": 33}, {"round": -1}, {"attempt": -1}])
def test_impossible_rounds_are_refused(changes):
    """A context names a vector and a moment."""
    with pytest.raises(ParameterError):
        RoundContext(**(make_context().document() | changes))


def test_clear_aggregation_keeps_the_floor():
    """Clear mode does not sum fewer than n_min either."""
    context = make_context(aggregation="clear")
    found = prepare_clear(ring_vector(context, 1), context=context, signer=member_signer(1), contributor=member_id(1))
    with pytest.raises(CohortFloorError):
        add_clear({member_id(1): bytes(found.vector).__bytes__}, context=context, n_min=2)


def test_reports_of_strangers_do_not_make_a_quorum():
    """Only seats report."""
    star = star_with(3)
    reports = {member_id(column): star.received(column) for column in (0, 1, 9 % 3)}
    reports[member_id(9)] = reports.pop(member_id(1))
    with pytest.raises(QuorumError):
        propose_set(reports, star.group)


def test_every_error_has_its_own_code_and_a_fault():
    """Codes are stable names; faults are ours, the peer's or the world's."""
    found, queue = [], [SecureAggregationError]
    while queue:
        queue.extend(queue[0].__subclasses__())
        found.append(queue.pop(0))
    assert len({error.code for error in found}) == len(found)
    assert {error.fault for error in found} == {"ours", "peer", "world"}
    assert all(error.__name__.endswith("Error") and error.__doc__ for error in found)


def test_secrets_do_not_show_in_repr():
    """Vectors stay out of logs."""
    star = make_star(3, 1, context=make_context())
    assert "vector=" not in repr(package(star, 1, ring_vector(star.context, 1)))
