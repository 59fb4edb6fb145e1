"""The manifest: built by the collector, recomputed by every member."""

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from learning.secagg.errors import BeaconError, ManifestError, PlacementError, WrapGuardError
from learning.secagg.layout import Section, VectorLayout
from learning.secagg.manifest import APPROVAL_KIND, KIND, Identity, Manifest, build_manifest, verify_manifest
from policies.signing import Signer, new_signer
from tests.support.secagg_star import (
    EXPIRES,
    MODEL,
    NOW,
    approval,
    identify,
    member_id,
    member_sealing_key,
    member_signer,
    reveal_of,
    terms,
)

COLLECTOR: Signer = new_signer("did:web:ai.example")
IDENTITY = Identity(participant=COLLECTOR.kid, organisation="AI Ltd", public_key=COLLECTOR.public_key)


def build(count: int = 4, **changes: Any) -> tuple[dict[str, Any], Manifest]:
    """Return the manifest of a job with some members."""
    epoch = changes.get("epoch", 0)
    approvals = [approval(number, epoch=epoch) for number in range(count)]
    reveals = {member_id(number): reveal_of(number) for number in range(count)}
    return build_manifest(terms(**changes), approvals, reveals, identify=identify, signer=COLLECTOR)


def check(document: dict[str, Any]) -> Manifest:
    """Verify as a member does."""
    return verify_manifest(document, collector=IDENTITY, identify=identify, now=NOW)


@pytest.mark.parametrize("changes", [{}, {"shape": (4, 2)}, {"aggregation": "clear"}, {"copies": 1}, {"epoch": 2}])
def test_a_member_recomputes_what_the_collector_built(changes):
    """Members, seats, beacon and group come out the same on both sides."""
    document, built = build(**changes)
    assert check(document) == built


def test_the_group_has_the_members_keys_in_seat_order():
    """Seats are members, with the sealing keys that they approved with."""
    _, built = build()
    assert built.group is not None
    assert built.group.quorum == 3
    assert built.group.copies == 2
    for seat in built.group.seats:
        number = next(number for number in range(4) if member_id(number) == seat.participant)
        assert seat.sealing_key == member_sealing_key(number).public_key
        assert built.keys[seat.participant] == seat.public_key == member_signer(number).public_key
    assert check(build(aggregation="clear")[0]).group is None


def test_a_context_is_bound_to_manifest_plan_and_model():
    """Rounds of two jobs, attempts or models have nothing in common."""
    _, built = build()
    context = built.context(round=1, attempt=1, model=MODEL)
    assert (context.manifest, context.plan, context.d, context.k) == (built.digest, terms().plan, 10, 32)
    assert context.digest != built.context(round=1, attempt=2, model=MODEL).digest


@pytest.mark.parametrize(
    "change",
    [
        lambda payload: payload["seats"].reverse(),
        lambda payload: payload.update(threshold=2),
        lambda payload: payload.update(beacon="00" * 32),
        lambda payload: payload.update(extra=1),
        lambda payload: payload.update(version=2),
        lambda payload: payload.update(version=True),
        lambda payload: payload.pop("terms"),
        lambda payload: payload["terms"].update(n_min=1),
        lambda payload: payload["terms"].update(n_min="3"),
        lambda payload: payload["terms"].update(aggregation="plain"),
        lambda payload: payload["terms"].update(expires="2026-11-22T12:00:00"),
        lambda payload: payload["terms"].update(plan="ab" * 32),
        lambda payload: payload["terms"].update(job="urn:uuid:job-2"),
        lambda payload: payload["terms"].update(collector="did:web:other"),
        lambda payload: payload["terms"].update(collector_organisation="Other Ltd"),
        lambda payload: payload["terms"].update(more=1),
        lambda payload: payload["terms"].update(copies=0),
        lambda payload: payload["terms"].update(copies="2"),
        lambda payload: payload["terms"].update(shape=[3]),
        lambda payload: payload["members"][0].update(organisation="Another"),
        lambda payload: payload["members"][0].update(public_key="AAAA"),
        lambda payload: payload["members"].append(payload["members"][0]),
        lambda payload: payload["members"][0].update(approval={"payload": {"participant": member_id(0)}}),
        lambda payload: payload["members"].reverse(),
    ],
    ids=range(24),
)
def test_a_manifest_that_does_not_recompute_is_refused(change: Callable[[dict[str, Any]], object]):
    """Whatever the collector bends, and signs, every member sees it."""
    payload = build()[0]["payload"]
    change(payload)
    with pytest.raises(ManifestError):
        check(COLLECTOR.sign(KIND, payload))


def test_a_bent_reveal_or_shape_is_refused():
    """The beacon's and the placement's own errors come through."""
    payload = build()[0]["payload"]
    payload["members"][0]["reveal"] = reveal_of(9)
    with pytest.raises(BeaconError):
        check(COLLECTOR.sign(KIND, payload))
    payload = build()[0]["payload"]
    payload["terms"]["shape"] = [7, 3]
    with pytest.raises(PlacementError):
        check(COLLECTOR.sign(KIND, payload))


def test_an_unsigned_and_an_expired_manifest_are_refused():
    """Only the collector's, and only in time."""
    document, _ = build()
    with pytest.raises(ManifestError):
        check(document | {"signature": None})
    with pytest.raises(ManifestError):
        check(new_signer(COLLECTOR.kid).sign(KIND, document["payload"]))
    with pytest.raises(ManifestError):
        verify_manifest(document, collector=IDENTITY, identify=identify, now=EXPIRES)
    assert verify_manifest(document, collector=IDENTITY, identify=identify, now=EXPIRES - timedelta(seconds=1))


def test_only_its_collector_builds_a_manifest():
    """The signer is the collector named in the terms."""
    with pytest.raises(ManifestError):
        build_manifest(terms(), [], {}, identify=identify, signer=new_signer("did:web:other"))


@pytest.mark.parametrize(
    "wrong",
    [
        approval(1, plan_digest="ab" * 32),
        approval(1, job="urn:uuid:job-2"),
        approval(0),
        approval(1, hpke_public=None),
        approval(1, hpke_public=["A" * 43]),
        {},
        member_signer(2).sign(APPROVAL_KIND, approval(1)["payload"]),
    ],
    ids=["other plan", "other job", "twice", "no key", "low-order key", "empty", "forged"],
)
def test_wrong_approvals_are_refused(wrong):
    """An approval is the member's, for this job and this plan."""
    reveals = {member_id(number): reveal_of(number) for number in range(3)}
    with pytest.raises(ManifestError):
        build_manifest(terms(), [approval(0), wrong, approval(2)], reveals, identify=identify, signer=COLLECTOR)


def test_seats_are_not_placed_within_one_organisation():
    """Two schools of one owner do not make a group."""
    approvals = [approval(number, membership="One Trust") for number in range(3)]
    reveals = {member_id(number): reveal_of(number) for number in range(3)}
    with pytest.raises(PlacementError):
        build_manifest(terms(), approvals, reveals, identify=identify, signer=COLLECTOR)


def test_a_layout_that_could_wrap_is_refused():
    """The guard holds for n_max contributions."""
    layout = VectorLayout(sections=(Section(name="w", size=10, bound=1.0, scale_bits=16),))
    assert build(layout=layout, n_max=32_767)
    with pytest.raises(WrapGuardError):
        build(layout=layout, n_max=32_768)


def test_terms_are_kept():
    """What the collector chose is what members read."""
    document, built = build(n_min=3)
    assert check(document).terms == built.terms == dataclasses.replace(terms(), n_min=3)
