"""Fitting and scoring a network: the only two loops."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from learning.metrics import exact_auc
from learning.models import ModelSpec, Weights
from learning.splits import TRAIN, VALID
from learning.steps import LocalTraining
from learning.training.batches import Batch, Examples, RowBatch, training_batches
from learning.training.networks import LogisticRegressionNetwork, build, predict, read


class TrainingDivergedError(ArithmeticError):
    """The plan's settings drive the weights out of float32's range on this data."""

    code = "training_diverged"


class Fitting:
    """A network with a fresh local optimiser, trained minibatch by minibatch."""

    def __init__(self, spec: ModelSpec, weights: Weights, local: LocalTraining) -> None:
        """Start from ``weights``; they also anchor the proximal term."""
        self.network = build(spec, weights)
        self._spec = spec
        self._local = local
        self._parameters = list(self.network.parameters())
        self._anchor = [parameter.detach().clone() for parameter in self._parameters] if local.proximal_mu else []
        self._adam = torch.optim.Adam(self._parameters, lr=local.learning_rate) if local.optimiser == "adam" else None

    def fit(self, batches: Iterable[Batch]) -> None:
        """Take one optimiser step per minibatch on the mean cross-entropy of its predictions."""
        self.network.train()
        for batch in batches:
            self._differentiate(batch)
            self._pull()
            if self._local.clip_norm is not None:
                nn.utils.clip_grad_norm_(self._parameters, self._local.clip_norm)
            self._move()

    def _differentiate(self, batch: Batch) -> None:
        """Put the gradient of the batch's mean cross-entropy into every parameter's ``grad``."""
        if isinstance(self.network, LogisticRegressionNetwork) and isinstance(batch, RowBatch):
            self._differentiate_line(self.network.linear, batch)
            return
        # As zero_grad does, without its walk over the modules.
        for parameter in self._parameters:
            parameter.grad = None
        loss = binary_cross_entropy_with_logits(predict(self.network, batch), batch.labels)
        loss.backward()  # type: ignore[no-untyped-call]

    @staticmethod
    def _differentiate_line(line: nn.Linear, batch: RowBatch) -> None:
        # One layer's gradient is mean((sigmoid(z) - y) x). Autograd finds the same and takes ten times as long for it.
        with torch.no_grad():
            logits = torch.addmv(line.bias, batch.features, line.weight[0])
            residuals = logits.sigmoid_().sub_(batch.labels).div_(len(batch.labels))
            line.weight.grad = (residuals @ batch.features).unsqueeze(0)
            line.bias.grad = residuals.sum(0, keepdim=True)

    def _move(self) -> None:
        if self._adam is not None:
            self._adam.step()
            return
        # Plain descent by hand: torch.optim's bookkeeping costs more than a small model's whole step.
        with torch.no_grad():
            for parameter in self._parameters:
                if parameter.grad is not None:
                    parameter.add_(parameter.grad, alpha=-self._local.learning_rate)

    def weights(self) -> Weights:
        """Return copies of the current weights.

        Raises:
            TrainingDivergedError: a weight is not finite.
        """
        weights = read(self._spec, self.network)
        if not all(np.isfinite(array).all() for array in weights.values()):
            raise TrainingDivergedError("local training left the range of float32: its learning rate is too high")
        return weights

    def _pull(self) -> None:
        for parameter, anchor in zip(self._parameters, self._anchor, strict=bool(self._anchor)):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - anchor, alpha=self._local.proximal_mu)


def train(spec: ModelSpec, weights: Weights, examples: Examples, local: LocalTraining, seed: int) -> Weights:
    """Return the weights after the plan's local epochs or steps.

    Raises:
        TrainingDivergedError: a weight is not finite.
    """
    fitting = Fitting(spec, weights, local)
    fitting.fit(_walk(examples, local, seed))
    return fitting.weights()


def train_until_best(
    spec: ModelSpec,
    weights: Weights,
    examples: Examples,
    local: LocalTraining,
    *,
    seed: int,
    max_epochs: int,
    patience: int,
    keep_given: bool,
) -> tuple[Weights, int]:
    """Train epoch by epoch and return the weights with the best own validation, and their epoch.

    Better is a higher AUC on the validation split, or a lower loss where it holds one class only. Without validation
    rows there is nothing to stop on: ``max_epochs`` are done (or, with ``keep_given``, none).

    Args:
        spec: the model.
        weights: where to start.
        examples: the snapshot.
        local: optimiser settings; its ``epochs`` and ``steps`` are not used.
        seed: fixes the order of the data.
        max_epochs: most epochs.
        patience: epochs without an improvement before stopping.
        keep_given: the given weights compete as epoch 0.

    Raises:
        TrainingDivergedError: a weight is not finite.
    """
    watched = bool(examples.size(VALID))
    if not examples.size(TRAIN) or (keep_given and not watched):
        return weights, 0
    fitting = Fitting(spec, weights, local)
    best, best_epoch = weights, 0
    best_value = goodness(fitting.network, examples) if keep_given else -np.inf
    for epoch in range(1, max_epochs + 1):
        fitting.fit(examples.shuffled(TRAIN, local.batch_size, seed, epoch - 1))
        current = fitting.weights()
        value = goodness(fitting.network, examples) if watched else float(epoch)
        if value > best_value:
            best, best_epoch, best_value = current, epoch, value
        elif epoch - best_epoch >= patience:
            break
    return best, best_epoch


def goodness(network: nn.Module, examples: Examples) -> float:
    """Return the validation AUC, or minus the loss where there is one class only (always below any AUC)."""
    scores, labels, _ = score(network, examples, VALID)
    auc = exact_auc(scores, labels)
    if auc is not None:
        return auc
    clipped = np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(np.log(np.where(labels > 0, clipped, 1 - clipped)).mean()) if len(labels) else 0.0


def score(
    network: nn.Module, examples: Examples, split: int | None
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Return probabilities, labels and snapshot rows of a split (or of everything), in the snapshot's order."""
    network.eval()
    parts: list[tuple[Tensor, Tensor]] = []
    rows: list[NDArray[np.int64]] = []
    with torch.inference_mode():
        for batch in examples.in_order(split):
            parts.append((torch.sigmoid(predict(network, batch)), batch.labels))
            rows.append(batch.rows)
    if not parts:
        empty = np.zeros(0, dtype=np.float32)
        return empty, empty, np.zeros(0, dtype=np.int64)
    where = np.concatenate(rows)
    order = np.argsort(where, kind="stable")
    scores, labels = (torch.cat(tensors).numpy()[order] for tensors in zip(*parts, strict=True))
    return scores, labels, where[order]


def _walk(examples: Examples, local: LocalTraining, seed: int) -> Iterator[Batch]:
    if local.steps is not None:
        yield from training_batches(examples, local.batch_size, seed, local.steps)
        return
    for epoch in range(local.epochs or 1):
        yield from examples.shuffled(TRAIN, local.batch_size, seed, epoch)


def warm(spec: ModelSpec, weights: Weights, examples: Examples, local: LocalTraining) -> None:
    """Take one step with each optimiser and score once, so that torch's lazy imports are paid before a fork."""
    for optimiser in ("sgd", "adam"):
        train(spec, weights, examples, replace(local, optimiser=optimiser), 0)
    score(build(spec, weights), examples, None)
