"""Training plans that the demo's AI provider proposes: one recipe for each kind of data.

A plan is written from what the catalogs say (the ``output`` and ``rowsBand`` of each dataset), as any AI provider
would. Settings: ``knowledge-tracing`` and ``at-risk`` as measured on public data; ``heart-disease`` is FLamby's
(Ogier du Terrail et al. 2022, Fed-Heart-Disease).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from learning.plans import Aggregation, Evaluation, TrainingPlan, parse_plan, plan_payload
from policies.canonical import digest

Recipe: TypeAlias = Literal["knowledge-tracing", "at-risk", "heart-disease"]
Granularity: TypeAlias = Literal["provider", "learner"]
Strategy: TypeAlias = Literal["fedavg", "fedadam", "fedyogi", "fedadagrad"]

_ORCHARD = "https://w3id.org/orchard/"


class DemoPlanError(ValueError):
    """The datasets do not fit one plan; the fault of whoever chose them."""

    code = "demo-plan"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What the demo's command line may change; None leaves the recipe's own value.

    Attributes:
        rounds: rounds of training.
        strategy: the server optimiser, with its recipe's rate (0.01 for the adaptive ones, 1 for FedAvg).
        seed: of the initial weights and of every step.
        initial_weights: digest of a blob of weights to begin with instead.
        aggregation: how updates are summed.
        baseline: measure what each provider reaches alone.
        finetune: measure the final model after a short local fine-tune.
        small_rows: providers with fewer training rows are averaged apart.
        cohort_floor: fewest consenting learners per provider.
        round_seconds, recruit_seconds: deadlines.
        granularity: ``learner`` makes every learner a contributor, with settings of its own.
    """

    rounds: int | None = None
    strategy: Strategy | None = None
    seed: int = 7
    initial_weights: str | None = None
    aggregation: Aggregation = dataclasses.field(default_factory=Aggregation)
    baseline: bool = True
    finetune: bool = False
    small_rows: int = 0
    cohort_floor: int = 10
    min_contributors: int = 2
    round_seconds: float = 120.0
    recruit_seconds: float = 3600.0
    granularity: Granularity = "provider"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Terms:
    title: str
    purpose: str
    algorithm_class: str
    rounds: int
    strategy: Strategy
    local: Mapping[str, Any]
    clip: float
    alone: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _LearnerTerms:
    """What is different where each learner is a contributor: one small step each, and the server's optimiser decides."""

    local: Mapping[str, Any]
    clip: float
    weight_cap: int


_STEP = {"optimiser": "sgd", "batch_size": 32, "clip_norm": 1.0, "epochs": 1}
_LEARNERS: Mapping[Recipe, _LearnerTerms] = {
    "knowledge-tracing": _LearnerTerms(local={**_STEP, "learning_rate": 0.5}, clip=0.5, weight_cap=64),
    "at-risk": _LearnerTerms(local={**_STEP, "learning_rate": 1.0}, clip=1.0, weight_cap=4),
    "heart-disease": _LearnerTerms(local={**_STEP, "learning_rate": 0.1}, clip=0.1, weight_cap=4),
}
_ROUND_SECONDS = 900.0


# The clip is far over what a round can move (learning rate x steps x gradient norm): it does not bite.
_TERMS: Mapping[Recipe, _Terms] = {
    "knowledge-tracing": _Terms(
        title="Deep knowledge tracing",
        purpose=_ORCHARD + "KnowledgeTracing",
        algorithm_class=_ORCHARD + "KnowledgeTracingModel",
        rounds=20,
        strategy="fedadam",
        local={"optimiser": "sgd", "learning_rate": 0.5, "batch_size": 32, "clip_norm": 1.0, "epochs": 1},
        clip=20.0,
        # What a school alone, or whoever had all rows, would choose; plain SGD would make the federation look better.
        alone={"optimiser": "adam", "learning_rate": 0.003, "batch_size": 32, "clip_norm": 1.0, "epochs": 1},
    ),
    "at-risk": _Terms(
        title="Learners at risk",
        purpose=_ORCHARD + "DropoutPrevention",
        algorithm_class=_ORCHARD + "AtRiskModel",
        rounds=20,
        strategy="fedavg",
        local={"optimiser": "sgd", "learning_rate": 0.05, "batch_size": 32, "epochs": 1},
        clip=20.0,
    ),
    "heart-disease": _Terms(
        title="Heart disease, FLamby's protocol",
        purpose="https://w3id.org/dpv#ScientificResearch",
        algorithm_class=_ORCHARD + "DiagnosisModel",
        rounds=15,
        strategy="fedavg",
        local={"optimiser": "sgd", "learning_rate": 0.001, "batch_size": 4, "steps": 100},
        clip=10.0,
    ),
}
_RATES: Mapping[Strategy, float] = {"fedavg": 1.0, "fedadam": 0.01, "fedyogi": 0.01, "fedadagrad": 0.01}


def recipe_for(view_name: str, shape: str) -> Recipe:
    """Return the recipe for a view: by its name where there is one, else by its shape."""
    if view_name == "heart-disease":
        return "heart-disease"
    return "knowledge-tracing" if shape == "responses" else "at-risk"


def recipe_purpose(recipe: Recipe) -> tuple[str, str]:
    """Return the purpose and the algorithm class (IRIs) that a recipe's plan names; offers and notices name them too."""
    return _TERMS[recipe].purpose, _TERMS[recipe].algorithm_class


def build_plan(
    recipe: Recipe, datasets: Sequence[Mapping[str, Any]], options: PlanOptions = PlanOptions()
) -> dict[str, Any]:
    """Return the payload of a plan over datasets.

    Args:
        recipe: which settings.
        datasets: the catalog properties of each dataset; ``output`` and ``rowsBand`` are read.
        options: what to change.

    Raises:
        DemoPlanError: no dataset, or datasets whose columns differ.
        PlanError: an option makes the plan contradict itself.
    """
    outputs = {digest(properties["output"]): properties["output"] for properties in datasets}
    if len(outputs) != 1:
        raise DemoPlanError("no dataset was found" if not outputs else "the datasets do not have the same columns")
    ((features, output),) = outputs.items()
    terms, each = _TERMS[recipe], _LEARNERS[recipe] if options.granularity == "learner" else None
    strategy = options.strategy or (terms.strategy if each is None else "fedadam")
    plan = TrainingPlan(
        title=terms.title,
        purpose=terms.purpose,
        algorithm_class=terms.algorithm_class,
        shape=output["shape"],
        features=features,
        model=_model(recipe, output, small=each is not None),
        seed=options.seed,
        rounds=options.rounds or terms.rounds,
        local=dict(terms.local if each is None else each.local),
        strategy={"kind": strategy, "learning_rate": _RATES[strategy]},
        aggregation=options.aggregation,
        evaluation=Evaluation(
            baseline=options.baseline and each is None,
            finetune=options.finetune and each is None,
            small_rows=options.small_rows,
            baseline_local=dict(terms.alone) if terms.alone else None,
        ),
        granularity=options.granularity,
        initial_weights=options.initial_weights,
        cohort_floor=options.cohort_floor,
        min_contributors=options.min_contributors,
        clip=terms.clip if each is None else each.clip,
        weight_cap=weight_cap([str(properties["rowsBand"]) for properties in datasets])
        if each is None
        else each.weight_cap,
        round_seconds=options.round_seconds if each is None else max(options.round_seconds, _ROUND_SECONDS),
        recruit_seconds=options.recruit_seconds,
    )
    return plan_payload(parse_plan(plan_payload(plan)))


def weight_cap(bands: Sequence[str]) -> int:
    """Return the power of two at or above the upper end of the largest band, e.g. 131072 for ``10000-100000``.

    Raises:
        DemoPlanError: a band is not two numbers joined by ``-``.
    """
    try:
        largest = max(int(band.rpartition("-")[2]) for band in bands)
    except ValueError:
        raise DemoPlanError("a dataset's rows band is not of the form 100-1000") from None
    return 1 << max(largest - 1, 1).bit_length()


def _model(recipe: Recipe, output: Mapping[str, Any], *, small: bool) -> dict[str, Any]:
    if recipe == "knowledge-tracing":
        # Every learner uploads a vector of the model's size.
        embedding, hidden = (16, 32) if small else (32, 64)
        return {"kind": "dkt", "skills": output["skills"], "embedding": embedding, "hidden": hidden}
    if recipe == "at-risk":
        return {"kind": "mlp", "inputs": output["inputs"], "hidden": [64, 32]}
    return {"kind": "logistic-regression", "inputs": output["inputs"]}
