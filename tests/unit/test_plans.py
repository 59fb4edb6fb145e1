"""Training plans: data with one name, refused where they contradict themselves."""

import dataclasses
from typing import Any

import pytest

from learning.errors import PlanError
from learning.plans import parse_plan, plan_digest, plan_payload
from tests.support.federation import plan_payload as small_plan


def test_a_plan_reads_back_what_it_signs() -> None:
    """The payload of a parsed plan parses to the same plan, with every default written out."""
    plan = parse_plan(small_plan())
    assert parse_plan(plan_payload(plan)) == plan
    assert set(plan_payload(plan)) == {field.name for field in dataclasses.fields(plan)}
    assert plan_payload(plan)["strategy"].keys() > {"kind"}


def test_the_digest_names_every_field() -> None:
    """The same plan has the same digest however it was written; any change gives another."""
    digest = plan_digest(parse_plan(small_plan()))
    assert digest == plan_digest(parse_plan(small_plan(version="1", clip=10.0)))
    for change in ({"seed": 8}, {"rounds": 3}, {"clip": 9.0}, {"aggregation": {"mode": "clear"}}, {"title": "Other"}):
        assert plan_digest(parse_plan(small_plan(**change))) != digest


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rounds": 0}, "rounds"),
        ({"rounds": 10_001}, "rounds"),
        ({"cohort_floor": 0}, "cohort_floor"),
        ({"round_attempts": 21}, "round_attempts"),
        ({"min_contributors": 1}, "hides nobody"),
        ({"clip": 0.0}, "positive"),
        ({"clip": float("inf")}, "clip"),
        ({"round_seconds": -1.0}, "positive"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**53}, "seed"),
        ({"shape": "pictures"}, "shape"),
        ({"granularity": "person"}, "granularity"),
        ({"granularity": "learner", "evaluation": {"baseline": True}}, "learner by learner"),
        ({"granularity": "learner", "evaluation": {"baseline": False}, "aggregation": {"mode": "clear"}}, "single"),
        ({"aggregation": {"fan_out": 3}}, "fan_out"),
        ({"aggregation": {"mode": "tree", "fan_out": 1}}, "fan_out"),
        ({"aggregation": {"mode": "gossip"}}, "aggregation.mode"),
        ({"aggregation": {"bits": 16}}, "aggregation.bits"),
        ({"aggregation": {"seat": 3}}, "aggregation.seat"),
        ({"model": {"kind": "oracle"}}, "oracle"),
        ({"local": {"optimiser": "sgd"}}, "learning_rate"),
        ({"strategy": {"kind": "fedmagic"}}, "fedmagic"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(change: dict[str, Any], named: str) -> None:
    """One sentence names what is wrong; the field's value is not repeated where it could be anything."""
    with pytest.raises(PlanError, match=named):
        parse_plan(small_plan(**change))


@pytest.mark.parametrize("missing", ["title", "purpose", "model", "seed", "rounds", "local"])
def test_a_plan_without_a_field_it_needs_is_refused(missing: str) -> None:
    """A missing field is named."""
    payload = small_plan()
    del payload[missing]
    with pytest.raises(PlanError, match=missing):
        parse_plan(payload)
