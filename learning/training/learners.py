"""Many learners side by side: each trains its own copy of the weights on its own rows, all in one computation.

The parameters of a chunk of learners are stacked, [learners, ...]; the loss is the sum of the learners' own mean
losses, so that one backward pass gives each learner its own gradient. What comes out is what `learning.training.fitting`
gives for each learner alone, up to the rounding of float32.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, embedding_bag

from learning.metrics import Sums, learner_metrics
from learning.models import Dkt, LogisticRegression, Mlp, ModelSpec, Weights, flatten, parameter_count
from learning.splits import SPLIT_NAMES, TRAIN
from learning.steps import LocalTraining, Step, learner_seed
from learning.training.batches import AnswerBatch, Examples, Ints, Outcomes, Responses, SnapshotError, order
from learning.training.fitting import TrainingDivergedError, score
from learning.training.networks import build

Stacked: TypeAlias = dict[str, Tensor]
# Stacked parameters of a chunk, in values: small enough that they stay in the processor's cache from step to step.
_CHUNK_VALUES = 1 << 20
_FEWEST, _MOST = 16, 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class _RowStep:
    """One minibatch of each learner: rows [learners, width] of the snapshot, and 1 where there is a row."""

    rows: Ints
    mask: Tensor


def train_learners(step: Step, weights: Weights, examples: Examples) -> NDArray[np.float32]:
    """Return local minus given weights of every learner, float32 [learners, parameters]; zero for one without rows.

    Raises:
        TrainingDivergedError: a weight is not finite.
    """
    deltas = np.zeros((step.learners, parameter_count(step.model)), dtype=np.float32)
    start = flatten(step.model, weights)
    chunks = _answer_chunks(step, examples) if isinstance(examples, Responses) else _row_chunks(step, _table(examples))
    for learners, batches in chunks:
        trained = _fit(step, weights, examples, len(learners), batches)
        deltas[learners] = trained - start
    if not np.isfinite(deltas).all():
        raise TrainingDivergedError("local training left the range of float32: its learning rate is too high")
    return deltas


def measure_learners(step: Step, weights: Weights, examples: Examples) -> dict[str, Sums]:
    """Return each learner's metric sums under the given weights: split -> name -> [learners, length]."""
    network, owners = build(step.model, weights), examples.learners
    metrics = {}
    for split in step.splits:
        scores, labels, rows = score(network, examples, SPLIT_NAMES.index(split))
        metrics[split] = learner_metrics(scores, labels, owners[rows], step.learners, small=step.small)
    return metrics


def count_learners(step: Step, examples: Examples) -> Ints:
    """Return how many rows or predicted answers each learner trains on in one epoch, [learners].

    Raises:
        SnapshotError: the snapshot holds more learners than the step.
    """
    owners = examples.learners
    if owners.size and not 0 <= owners.min() <= owners.max() < step.learners:
        raise SnapshotError(f"the snapshot numbers a learner beyond the step's {step.learners}")
    if isinstance(examples, Responses):
        learners, lengths = examples.trainable()
        counts = np.zeros(step.learners, dtype=np.int64)
        counts[learners] = lengths - 1
        return counts
    rows = _table(examples).of(np.arange(len(owners)), TRAIN)
    return np.bincount(owners[rows], minlength=step.learners)


def _table(examples: Examples) -> Outcomes:
    if not isinstance(examples, Outcomes):
        raise SnapshotError("the snapshot is neither rows nor answers")
    return examples


def _chunk(spec: ModelSpec) -> int:
    return max(_FEWEST, min(_MOST, _CHUNK_VALUES // parameter_count(spec)))


def _row_chunks(step: Step, examples: Outcomes) -> Iterator[tuple[Ints, list[_RowStep]]]:
    """Give learners with equally many minibatches, and the minibatches."""
    owners = examples.learners
    rows = examples.of(np.argsort(owners, kind="stable"), TRAIN)
    sizes = np.bincount(owners[rows], minlength=step.learners)
    ends = np.cumsum(sizes)
    walks: dict[int, list[tuple[int, list[Ints]]]] = {}
    for learner in np.flatnonzero(sizes):
        own = rows[ends[learner] - sizes[learner] : ends[learner]]
        walk = list(_walk(own, step.local, learner_seed(step.seed, int(learner))))
        walks.setdefault(len(walk), []).append((int(learner), walk))
    size = _chunk(step.model)
    for count, found in sorted(walks.items()):
        for start in range(0, len(found), size):
            part = found[start : start + size]
            learners = np.array([learner for learner, _ in part])
            yield learners, [_pad([walk[number] for _, walk in part]) for number in range(count)]


def _walk(rows: Ints, local: LocalTraining, seed: int) -> Iterator[Ints]:
    """Yield the minibatches of one learner, as `learning.training.fitting.train` would."""
    done = epoch = 0
    while local.epochs is None or epoch < local.epochs:
        turn = rows[order(len(rows), seed, epoch)] if len(rows) > 1 else rows
        for start in range(0, len(rows), local.batch_size):
            if done == local.steps:
                return
            yield turn[start : start + local.batch_size]
            done += 1
        epoch += 1


def _pad(batches: list[Ints]) -> _RowStep:
    width = max(len(batch) for batch in batches)
    rows = np.zeros((len(batches), width), dtype=np.int64)
    mask = np.zeros((len(batches), width), dtype=np.float32)
    for number, batch in enumerate(batches):
        rows[number, : len(batch)] = batch
        mask[number, : len(batch)] = 1.0
    return _RowStep(rows=rows, mask=torch.from_numpy(mask))


def _answer_chunks(step: Step, examples: Responses) -> Iterator[tuple[Ints, list[AnswerBatch]]]:
    """Give learners of similar length; a learner is one minibatch, seen again in each epoch."""
    learners, _ = examples.trainable()
    size = _chunk(step.model)
    for start in range(0, len(learners), size):
        part = learners[start : start + size]
        yield part, [examples.side_by_side(part)] * (step.local.steps or step.local.epochs or 1)


def _fit(
    step: Step, weights: Weights, examples: Examples, count: int, batches: list[_RowStep] | list[AnswerBatch]
) -> NDArray[np.float32]:
    """Return the trained weights of a chunk of learners, flat, [learners, parameters]."""
    local = step.local
    anchor = {name: torch.from_numpy(array) for name, array in weights.items()}
    stacked = {name: value.expand(count, *value.shape).clone().requires_grad_() for name, value in anchor.items()}
    adam = torch.optim.Adam(list(stacked.values()), lr=local.learning_rate) if local.optimiser == "adam" else None
    for batch in batches:
        for parameter in stacked.values():
            parameter.grad = None
        _loss(step.model, stacked, examples, batch).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            _shape_gradients(stacked, anchor, local)
            if adam is None:
                for parameter in stacked.values():
                    if parameter.grad is not None:
                        parameter.add_(parameter.grad, alpha=-local.learning_rate)
        if adam is not None:
            adam.step()
    flat: NDArray[np.float32] = torch.cat([value.detach().flatten(1) for value in stacked.values()], 1).numpy()
    return flat


def _shape_gradients(stacked: Stacked, anchor: Mapping[str, Tensor], local: LocalTraining) -> None:
    """Add the proximal pull, then bring each learner's own gradient under the largest norm."""
    pairs = [(value, value.grad, anchor[name]) for name, value in stacked.items() if value.grad is not None]
    if local.proximal_mu:
        for value, gradient, start in pairs:
            gradient.add_(value - start, alpha=local.proximal_mu)
    if local.clip_norm is not None:
        norms = torch.stack([torch.linalg.vector_norm(gradient.flatten(1), dim=1) for _, gradient, _ in pairs])
        # As torch.nn.utils.clip_grad_norm_ does for one model.
        factor = (local.clip_norm / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp(max=1.0)
        for _, gradient, _ in pairs:
            gradient.mul_(factor.view(-1, *[1] * (gradient.dim() - 1)))


def _loss(spec: ModelSpec, stacked: Stacked, examples: Examples, batch: _RowStep | AnswerBatch) -> Tensor:
    """Return the sum over learners of each one's mean cross-entropy."""
    if isinstance(batch, AnswerBatch):
        if not isinstance(spec, Dkt):
            raise SnapshotError("answers train deep knowledge tracing only")
        logits, owners = _trace(spec, stacked, batch)
        losses = binary_cross_entropy_with_logits(logits, batch.labels, reduction="none")
        counts = torch.bincount(owners)
        return (losses / counts[owners]).sum()
    features, labels = _table(examples).take(batch.rows)
    losses = binary_cross_entropy_with_logits(_rows(spec, stacked, features), labels, reduction="none")
    return (losses * batch.mask / batch.mask.sum(1, keepdim=True)).sum()


def _rows(spec: ModelSpec, stacked: Stacked, features: Tensor) -> Tensor:
    """Return logits [learners, width] of features [learners, width, d]."""
    match spec:
        case LogisticRegression():
            return _linear(stacked, "linear", features).squeeze(2)
        case Mlp():
            values = features
            for index in range(len(spec.hidden)):
                values = torch.relu(_linear(stacked, f"layers.{index}", values))
            return _linear(stacked, f"layers.{len(spec.hidden)}", values).squeeze(2)
        case Dkt():
            raise SnapshotError("rows do not train deep knowledge tracing")


def _linear(stacked: Stacked, name: str, values: Tensor) -> Tensor:
    return torch.baddbmm(stacked[f"{name}.bias"].unsqueeze(1), values, stacked[f"{name}.weight"].transpose(1, 2))


def _trace(spec: Dkt, stacked: Stacked, batch: AnswerBatch) -> tuple[Tensor, Tensor]:
    """Return the logits of the predicted answers, and which learner of the chunk each is of; see `DktNetwork`."""
    (grid,) = batch.grids
    table = stacked["embedding.weight"].flatten(0, 1)
    events = embedding_bag(batch.pairs, table, batch.pair_offsets, mode="mean", include_last_offset=True)
    padded = events.new_zeros(grid.times * grid.learners, spec.embedding).index_copy(0, grid.slots, events)
    inputs = padded.view(grid.times, grid.learners, -1).transpose(0, 1)
    bias = (stacked["lstm.bias_ih_l0"] + stacked["lstm.bias_hh_l0"]).unsqueeze(1)
    gates = torch.baddbmm(bias, inputs, stacked["lstm.weight_ih_l0"].transpose(1, 2))
    states = _Recurrence.apply(gates.transpose(0, 1), stacked["lstm.weight_hh_l0"])  # type: ignore[no-untyped-call]
    before = states.flatten(0, 1).index_select(0, grid.sources)
    weight = _mean_rows(stacked["output.weight"].flatten(0, 1), batch)
    bias = _mean_rows(stacked["output.bias"].flatten(0, 1).unsqueeze(1), batch)
    return (before * weight).sum(1) + bias.squeeze(1), grid.sources % grid.learners


def _mean_rows(table: Tensor, batch: AnswerBatch) -> Tensor:
    return embedding_bag(batch.targets, table, batch.target_offsets, mode="mean", include_last_offset=True)


class _Recurrence(torch.autograd.Function):
    """An LSTM (Hochreiter and Schmidhuber 1997) whose recurrent weights differ from learner to learner.

    Written out because autograd would add up the gradient of the recurrent weights time step by time step, which costs
    more than everything else: here it is one product at the end.
    """

    @staticmethod
    def forward(ctx: Any, gates: Tensor, weight: Tensor) -> Tensor:
        """Return states [times, learners, h] from input gates [times, learners, 4h] and weights [learners, 4h, h]."""
        times, learners, width = gates.shape
        states, cells = (
            gates.new_zeros(times + 1, learners, width // 4),
            gates.new_zeros(times + 1, learners, width // 4),
        )
        active = torch.empty_like(gates)
        turned = weight.transpose(1, 2)
        for time in range(times):
            drive = torch.baddbmm(gates[time].unsqueeze(1), states[time].unsqueeze(1), turned).squeeze(1)
            enter, keep, new, leave = drive.chunk(4, dim=1)
            torch.cat((enter.sigmoid(), keep.sigmoid(), new.tanh(), leave.sigmoid()), dim=1, out=active[time])
            enter, keep, new, leave = active[time].chunk(4, dim=1)
            torch.addcmul(enter * new, keep, cells[time], out=cells[time + 1])
            torch.mul(leave, cells[time + 1].tanh(), out=states[time + 1])
        ctx.save_for_backward(weight, states, cells, active)
        return states[1:]

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> Any:
        """Return the gradients of gates and weights."""
        weight, states, cells, active = ctx.saved_tensors
        (above,) = outputs
        drives = torch.empty_like(active)
        state, cell = torch.zeros_like(states[0]), torch.zeros_like(cells[0])
        for time in range(len(active) - 1, -1, -1):
            enter, keep, new, leave = active[time].chunk(4, dim=1)
            squashed = cells[time + 1].tanh()
            state = state + above[time]
            cell = cell + state * leave * (1 - squashed * squashed)
            parts = (
                cell * new * enter * (1 - enter),
                cell * cells[time] * keep * (1 - keep),
                cell * enter * (1 - new * new),
                state * squashed * leave * (1 - leave),
            )
            torch.cat(parts, dim=1, out=drives[time])
            cell = cell * keep
            state = torch.bmm(drives[time].unsqueeze(1), weight).squeeze(1)
        return drives, torch.bmm(drives.permute(1, 2, 0), states[:-1].transpose(0, 1))
