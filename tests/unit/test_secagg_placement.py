"""The beacon and the seats it gives."""

import pytest

from learning.placement import Candidate, beacon, commitment, place_seats
from learning.secagg.errors import BeaconError, PlacementError
from policies.signing import encode
from tests.support.secagg_star import member_id, reveal_of

JOB = "urn:uuid:job-1"


def opened(count: int = 4, epoch: int = 0) -> tuple[dict[str, str], dict[str, str]]:
    """Return commitments and reveals of some members."""
    reveals = {member_id(number): reveal_of(number) for number in range(count)}
    fixed = {
        name: commitment(job=JOB, epoch=epoch, participant=name, reveal=reveal) for name, reveal in reveals.items()
    }
    return fixed, reveals


def candidates(count: int, organisations: int | None = None) -> list[Candidate]:
    """Return members spread over some organisations."""
    return [
        Candidate(participant=member_id(number), organisation=f"School {number % (organisations or count)}")
        for number in range(count)
    ]


def test_the_beacon_depends_on_every_reveal_and_on_the_job():
    """Anyone's random bytes change it."""
    fixed, reveals = opened()
    value = beacon(job=JOB, epoch=0, commitments=fixed, reveals=reveals)
    name = member_id(2)
    reveals[name] = encode(bytes(32))
    fixed[name] = commitment(job=JOB, epoch=0, participant=name, reveal=reveals[name])
    assert beacon(job=JOB, epoch=0, commitments=fixed, reveals=reveals) != value
    fixed, reveals = opened(3)
    assert beacon(job=JOB, epoch=0, commitments=fixed, reveals=reveals) != value


def test_a_reveal_that_does_not_open_its_commitment_is_refused():
    """Nobody changes their mind after the others have shown theirs."""
    fixed, reveals = opened()
    reveals[member_id(1)] = encode(bytes(32))
    with pytest.raises(BeaconError) as caught:
        beacon(job=JOB, epoch=0, commitments=fixed, reveals=reveals)
    assert caught.value.sender == member_id(1)


def test_a_missing_reveal_is_named():
    """A member that commits and does not reveal is left out by drawing again without it."""
    fixed, reveals = opened()
    del reveals[member_id(3)]
    with pytest.raises(BeaconError) as caught:
        beacon(job=JOB, epoch=0, commitments=fixed, reveals=reveals)
    assert caught.value.sender == member_id(3)


def test_commitments_of_an_earlier_epoch_do_not_count():
    """The next epoch takes fresh commitments, so that a withheld reveal chooses nothing."""
    fixed, reveals = opened()
    with pytest.raises(BeaconError):
        beacon(job=JOB, epoch=1, commitments=fixed, reveals=reveals)
    again, reveals = opened(epoch=1)
    assert beacon(job=JOB, epoch=1, commitments=again, reveals=reveals)


@pytest.mark.parametrize("epoch", [-1, 4])
def test_epochs_are_limited(epoch):
    """A collector cannot redraw for ever."""
    fixed, reveals = opened()
    with pytest.raises(BeaconError):
        beacon(job=JOB, epoch=epoch, commitments=fixed, reveals=reveals)


@pytest.mark.parametrize("reveal", ["", "!!", encode(bytes(31)), encode(bytes(33))])
def test_a_reveal_has_32_bytes(reveal):
    """Anything else is refused when it is committed to."""
    with pytest.raises(BeaconError):
        commitment(job=JOB, epoch=0, participant="did:web:a", reveal=reveal)


def test_seats_belong_to_distinct_organisations_and_never_to_the_collectors():
    """However members are spread, a group has one seat per organisation."""
    members = [*candidates(12, 4), Candidate(participant="did:web:inside", organisation=" ai  LTD ")]
    for draw in range(50):
        placement = place_seats(f"{draw:064x}", members, collector_organisation="AI Ltd")
        names = {member.participant: member.organisation for member in members}
        assert len({names[seat] for seat in placement.seats}) == 3
        assert "did:web:inside" not in placement.seats


def test_placement_is_a_function_of_the_beacon_alone():
    """The order in which members are listed does not matter, and every member comes up."""
    members = candidates(6)
    first = set()
    for draw in range(60):
        placement = place_seats(f"{draw:064x}", members, collector_organisation="AI Ltd")
        assert placement == place_seats(f"{draw:064x}", members[::-1], collector_organisation="AI Ltd")
        first.add(placement.seats[0])
    assert len(first) == 6


def test_defaults_are_three_seats_or_two_with_a_warning():
    """(3, 1) where three organisations are, (2, 1) and a warning where two are."""
    three = place_seats("00", candidates(3), collector_organisation="AI Ltd")
    assert (len(three.seats), three.threshold, three.warnings) == (3, 1, ())
    two = place_seats("00", candidates(5, 2), collector_organisation="AI Ltd")
    assert (len(two.seats), two.threshold) == (2, 1)
    assert two.warnings
    with pytest.raises(PlacementError):
        place_seats("00", candidates(5, 1), collector_organisation="AI Ltd")


def test_another_shape_can_be_asked_for():
    """(5, 2) where five organisations are; unsupported shapes and too few organisations are refused."""
    five = place_seats("00", candidates(6), collector_organisation="AI Ltd", shape=(5, 2))
    assert (len(five.seats), five.threshold, five.warnings) == (5, 2, ())
    assert place_seats("00", candidates(6), collector_organisation="AI Ltd", shape=(3, 2)).warnings
    with pytest.raises(PlacementError):
        place_seats("00", candidates(6), collector_organisation="AI Ltd", shape=(5, 4))
    with pytest.raises(PlacementError):
        place_seats("00", candidates(4), collector_organisation="AI Ltd", shape=(5, 2))
