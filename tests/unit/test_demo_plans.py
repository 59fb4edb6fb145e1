"""The demo's training plans: written from catalogs, accepted as plans, and as measured."""

from typing import Any

import pytest

from connector.demo.plans import DemoPlanError, PlanOptions, build_plan, recipe_for, recipe_purpose, weight_cap
from connector.sources.providers import bundled_views, load_view
from learning.models import parse_model
from learning.plans import PlanError, parse_plan, plan_digest
from learning.views import output_digest, output_spec
from policies.hierarchy import purpose_is_a


def offered(name: str, band: str = "1000-10000") -> dict[str, Any]:
    """Return what a catalog says of a dataset under a bundled view."""
    view = next(load_view(path) for path in bundled_views() if path.stem == name)
    return {"shape": view.shape, "features": output_digest(view), "output": output_spec(view), "rowsBand": band}


@pytest.mark.parametrize("path", bundled_views(), ids=lambda path: path.stem)
def test_every_bundled_view_has_a_plan(path: Any) -> None:
    """Each view that comes with the connector can be trained on, with the digest that its provider publishes."""
    properties = offered(path.stem)
    recipe = recipe_for(path.stem, properties["shape"])
    payload = build_plan(recipe, [properties, properties])
    plan = parse_plan(payload)
    assert (plan.features, plan.shape) == (properties["features"], properties["shape"])
    assert (plan.purpose, plan.algorithm_class) == recipe_purpose(recipe)
    assert purpose_is_a(plan.purpose, plan.purpose).value == "satisfied"
    assert plan_digest(plan) == plan_digest(parse_plan(payload))


def test_knowledge_tracing_is_as_measured() -> None:
    """Server Adam over one local epoch of clipped SGD: the setting that beat FedAvg on real schools."""
    plan = build_plan("knowledge-tracing", [offered("assist2009-schools", "10000-100000")])
    assert plan["model"] == {"kind": "dkt", "skills": 111, "embedding": 32, "hidden": 64}
    assert (plan["strategy"]["kind"], plan["strategy"]["learning_rate"]) == ("fedadam", 0.01)
    assert (plan["local"]["learning_rate"], plan["local"]["clip_norm"], plan["local"]["epochs"]) == (0.5, 1.0, 1)
    assert plan["weight_cap"] == 131072


def test_the_heart_plan_is_flambys() -> None:
    """15 rounds of 100 steps of logistic regression with batches of 4 at rate 0.001, plainly averaged."""
    plan = build_plan("heart-disease", [offered("heart-disease", "100-1000")], PlanOptions(initial_weights="0" * 64))
    assert plan["model"] == {"kind": "logistic-regression", "inputs": 13}
    assert (plan["rounds"], plan["local"]["steps"], plan["local"]["batch_size"]) == (15, 100, 4)
    assert (plan["local"]["learning_rate"], plan["strategy"]) == (0.001, {"kind": "fedavg", "learning_rate": 1.0})
    assert plan["initial_weights"] == "0" * 64


def test_options_change_what_they_name() -> None:
    """Rounds, strategy, seed and evaluation come from the command line."""
    options = PlanOptions(rounds=3, strategy="fedadam", seed=11, baseline=False, finetune=True, small_rows=500)
    plan = parse_plan(build_plan("at-risk", [offered("oulad-at-risk")], options))
    assert (plan.rounds, plan.seed, plan.strategy["kind"]) == (3, 11, "fedadam")
    assert (plan.evaluation.baseline, plan.evaluation.finetune, plan.evaluation.small_rows) == (False, True, 500)
    assert parse_model(plan.model).hidden == (64, 32)  # type: ignore[union-attr]
    with pytest.raises(PlanError, match=r"rounds"):
        build_plan("at-risk", [offered("oulad-at-risk")], PlanOptions(rounds=20_000))


@pytest.mark.parametrize(("bands", "cap"), [(["0-10"], 16), (["100-1000", "10-100"], 1024), (["10000-100000"], 131072)])
def test_the_weight_cap_is_over_every_provider(bands: list[str], cap: int) -> None:
    """No provider's rows are cut, and no exact count is needed to make sure of it."""
    assert weight_cap(bands) == cap


def test_datasets_that_do_not_fit_are_refused() -> None:
    """One plan needs at least one dataset, one set of columns, and bands that can be read."""
    with pytest.raises(DemoPlanError, match=r"no dataset"):
        build_plan("at-risk", [])
    with pytest.raises(DemoPlanError, match=r"same columns"):
        build_plan("at-risk", [offered("oulad-at-risk"), offered("heart-disease")])
    with pytest.raises(DemoPlanError, match=r"rows band"):
        build_plan("at-risk", [offered("oulad-at-risk", "many")])
