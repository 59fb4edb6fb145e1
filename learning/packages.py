"""What a provider uploads in a round: one masked vector, or one for each of its learners, packed leaf group by leaf group.

A package is made once and stored before a byte of it leaves: masks are fresh, and a second package would be a second
upload. It keeps the seeds until the round is over, for a seat that is replaced.
"""

import base64
import dataclasses
import functools
import hmac
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learning.jobs import Participation
from learning.local import LearnersOutcome, StepOutcome
from learning.metrics import Sums
from learning.node import Node
from learning.parcels import join, split, vectors_of
from learning.placing import manifest_of
from learning.plans import TrainingPlan
from learning.rounds import Step
from learning.secagg.context import Group, RoundContext
from learning.secagg.contributor import UploadPackage, prepare_clear, prepare_upload
from learning.secagg.manifest import Manifest
from learning.secagg.quantize import RoundingStream
from learning.tree import TOP, parse_replaced
from learning.vectors import contribution
from policies.canonical import canonical_json
from policies.signing import document_digest

_PSEUDONYM = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Upload:
    """One contributor's stored upload: signed header, boxes by column and seeds (base64), masked vector."""

    document: Mapping[str, Any]
    boxes: Sequence[str]
    seeds: Sequence[str] = dataclasses.field(repr=False)
    vector: bytes | memoryview = dataclasses.field(repr=False)

    @property
    def contributor(self) -> str:
        """Whose upload it is."""
        return str(self.document["payload"]["contributor"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """Everything that one leaf group's seats get from a provider in an attempt."""

    leaf: str
    number: int
    group: Group
    context: RoundContext
    uploads: tuple[Upload, ...]


def opened_replaced(step: Step, manifest: Manifest) -> dict[str, dict[int, int]]:
    """Return the seats that were replaced before the round opened, as its signed opening says."""
    return {} if manifest.tree is None else parse_replaced(step.opening["payload"].get("replaced", {}), manifest.tree)


def group_context(manifest: Manifest, step: Step, leaf: str) -> tuple[Group, RoundContext]:
    """Return a group and its context as a round was opened."""
    replaced = opened_replaced(step, manifest).get(leaf, {})
    group = manifest.group_of(leaf, round=step.round, replaced=replaced)
    context = manifest.context(round=step.round, attempt=step.attempt, model=step.model, group=leaf, replaced=replaced)
    return group, context


def pseudonym(node: Node, job_id: str, subject: str) -> str:
    """Return a learner's contributor id in a job: the same in each round, unlinkable between jobs."""
    mark = hmac.digest(node.secret, b"orchard/contributor/1\0" + canonical_json([job_id, subject]), "sha256").hex()
    return f"{node.participant_id}#{mark[:_PSEUDONYM]}"


def rounding_seed(node: Node, plan: TrainingPlan, number: int, subject: str | None = None) -> bytes:
    """Return the 32-byte seed of a vector's stochastic rounding: the same plan and round round alike, secure or clear."""
    named = [plan.seed, number] if subject is None else [plan.seed, number, subject]
    return hmac.digest(node.secret, b"orchard/rounding/1\0" + canonical_json(named), "sha256")


def pack_provider(
    node: Node, part: Participation, plan: TrainingPlan, step: Step, outcome: StepOutcome
) -> dict[str, Any]:
    """Make and store the one upload of a provider; return what its step keeps of it."""
    placed = manifest_of(node, part.manifest, part)
    values = contribution(plan, delta=outcome.delta, train_rows=outcome.train_rows, metrics=outcome.metrics)
    vector = placed.terms.layout.encode(values, RoundingStream(rounding_seed(node, plan, step.round)))
    name, signer = node.participant_id, node.signer
    if placed.tree is None:
        context = placed.context(round=step.round, attempt=step.attempt, model=step.model)
        package = prepare_clear(vector, context=context, signer=signer, contributor=name)
        leaf = TOP
    else:
        leaf = placed.leaf_of(name)
        group, context = group_context(placed, step, leaf)
        package = prepare_upload(vector, context=context, group=group, signer=signer, contributor=name, spend=True)
    return {
        "leaf": leaf,
        "vector": node.blobs.put(package.vector, package.document["payload"]["vector"]),
        **_entry(package),
    }


def pack_learners(
    node: Node,
    part: Participation,
    plan: TrainingPlan,
    step: Step,
    outcome: LearnersOutcome,
    subjects: Sequence[str],
) -> dict[str, Any]:
    """Make and store an upload for each learner that has something to say; return what the step keeps of them."""
    placed = manifest_of(node, part.manifest, part)
    loads: dict[str, list[UploadPackage]] = {}
    places: dict[str, tuple[Group, RoundContext]] = {}
    for subject, values in _spoken(plan, outcome, subjects):
        name = pseudonym(node, step.job_id, subject)
        leaf = placed.leaf_of(name)
        if leaf not in places:
            places[leaf] = group_context(placed, step, leaf)
        group, context = places[leaf]
        vector = placed.terms.layout.encode(values, RoundingStream(rounding_seed(node, plan, step.round, subject)))
        package = prepare_upload(vector, context=context, group=group, signer=node.signer, contributor=name, spend=True)
        loads.setdefault(leaf, []).append(package)
    parcels, uploads = {}, {}
    for leaf, packages in sorted(loads.items()):
        parcels[leaf] = node.blobs.put(join([_entry(one) for one in packages], [one.vector for one in packages]))
        uploads[leaf] = {str(one.document["payload"]["contributor"]): document_digest(one.document) for one in packages}
    return {"parcels": parcels, "uploads": uploads}


def loads_of(node: Node, placed: Manifest, step: Step) -> list[Load]:
    """Return what a stored package holds, leaf group by leaf group."""
    package = step.package or {}
    if placed.tree is None:
        return []
    found: list[tuple[str, tuple[Upload, ...]]] = []
    if "parcels" not in package:
        upload = Upload(
            document=package["document"],
            boxes=package["boxes"],
            seeds=package["seeds"],
            vector=node.blobs.get(package["vector"]),
        )
        found.append((package["leaf"], (upload,)))
    for leaf, blob in package.get("parcels", {}).items():
        found.append((leaf, tuple(_uploads(node.blobs.get(blob)))))
    loads = []
    for leaf, uploads in found:
        group, context = group_context(placed, step, leaf)
        loads.append(Load(leaf=leaf, number=placed.tree.number(leaf), group=group, context=context, uploads=uploads))
    return loads


def package_blobs(package: Mapping[str, Any]) -> set[str]:
    """Return the blobs that a stored package names."""
    return {str(package["vector"])} if "vector" in package else set(package.get("parcels", {}).values())


def _uploads(data: bytes) -> Iterator[Upload]:
    values, rest = split(data)
    for value, vector in zip(values, vectors_of(rest, len(values)), strict=True):
        yield Upload(document=value["document"], boxes=value["boxes"], seeds=value["seeds"], vector=vector)


def _entry(package: UploadPackage) -> dict[str, Any]:
    return {
        "document": package.document,
        "boxes": [base64.b64encode(box).decode() for box in package.boxes],
        "seeds": [base64.b64encode(seed).decode() for seed in package.seeds],
    }


def _spoken(
    plan: TrainingPlan, outcome: LearnersOutcome, subjects: Sequence[str]
) -> Iterator[tuple[str, Mapping[str, NDArray[np.float64]]]]:
    """Yield each learner that trained or was measured, with the values of its vector."""
    result = outcome.result
    counts = functools.reduce(
        np.add, (sums["count"][:, 0] for sums in result.metrics.values()), np.zeros(len(subjects))
    )
    of: Callable[[int], dict[str, Sums]] = lambda learner: {  # noqa: E731 - said once, used once
        split: {name: array[learner] for name, array in sums.items()} for split, sums in result.metrics.items()
    }
    for learner, subject in enumerate(subjects):
        rows = int(result.train_rows[learner]) if result.deltas is not None else 0
        if not rows and not counts[learner]:
            continue
        delta = None if result.deltas is None else result.deltas[learner].astype(np.float64)
        yield subject, contribution(plan, delta=delta, train_rows=rows, metrics=of(learner))
