"""The three models as torch modules; parameters carry exactly the names of `learning.models.parameter_shapes`."""

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from learning.models import Dkt, LogisticRegression, Mlp, ModelSpec, Weights, parameter_shapes
from learning.training.batches import AnswerBatch, Batch, Grid, RowBatch


class LogisticRegressionNetwork(nn.Module):
    """One linear layer, one logit a row."""

    def __init__(self, spec: LogisticRegression) -> None:
        super().__init__()
        self.linear = nn.Linear(spec.inputs, 1)

    def forward(self, batch: RowBatch) -> Tensor:
        """Return logits [rows]."""
        return cast(Tensor, self.linear(batch.features)).squeeze(1)


class MlpNetwork(nn.Module):
    """Linear layers with ReLU between them, one logit a row."""

    def __init__(self, spec: Mlp) -> None:
        super().__init__()
        widths = (spec.inputs, *spec.hidden, 1)
        self.layers = nn.ModuleList(nn.Linear(into, out) for into, out in pairwise(widths))

    def forward(self, batch: RowBatch) -> Tensor:
        """Return logits [rows]."""
        values = batch.features
        for layer in self.layers[:-1]:
            values = torch.relu(layer(values))
        return cast(Tensor, self.layers[-1](values)).squeeze(1)


class DktNetwork(nn.Module):
    """Deep knowledge tracing over grids of time x learners."""

    def __init__(self, spec: Dkt) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(2 * spec.skills, spec.embedding, mode="mean", include_last_offset=True)
        self.lstm = nn.LSTM(spec.embedding, spec.hidden)
        self.output = nn.Linear(spec.hidden, spec.skills)

    def forward(self, batch: AnswerBatch) -> Tensor:
        """Return logits [answers], one per answer but each learner's first.

        The mean over a next event's skills of ``W[skill] h + b[skill]`` is ``mean(W[skill]) h + mean(b[skill])``, so only
        the rows that are asked for are touched.
        """
        events = cast(Tensor, self.embedding(batch.pairs, batch.pair_offsets))
        parts = torch.split(events, [len(grid.slots) for grid in batch.grids])
        before = torch.cat([self._states(part, grid) for part, grid in zip(parts, batch.grids, strict=True)])
        weight = self._mean_rows(self.output.weight, batch)
        bias = self._mean_rows(self.output.bias.unsqueeze(1), batch)
        return (before * weight).sum(1) + bias.squeeze(1)

    def _states(self, events: Tensor, grid: Grid) -> Tensor:
        # Padded, because the gradient of a packed sequence costs time quadratic in its length.
        padded = events.new_zeros(grid.times * grid.learners, events.shape[1]).index_copy(0, grid.slots, events)
        states, _ = self.lstm(padded.view(grid.times, grid.learners, -1))
        return cast(Tensor, states).flatten(0, 1).index_select(0, grid.sources)

    @staticmethod
    def _mean_rows(table: Tensor, batch: AnswerBatch) -> Tensor:
        return embedding_bag(batch.targets, table, batch.target_offsets, mode="mean", include_last_offset=True)


def build(spec: ModelSpec, weights: Weights) -> nn.Module:
    """Return the network of ``spec`` holding copies of ``weights``."""
    network: nn.Module
    match spec:
        case LogisticRegression():
            network = LogisticRegressionNetwork(spec)
        case Mlp():
            network = MlpNetwork(spec)
        case Dkt():
            network = DktNetwork(spec)
    network.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in weights.items()}, strict=True)
    return network


def read(spec: ModelSpec, network: nn.Module) -> Weights:
    """Return the network's weights as named float32 arrays (copies), in the order of the flat vector."""
    state = network.state_dict()
    return {name: state[name].detach().numpy().copy() for name in parameter_shapes(spec)}


def predict(network: nn.Module, batch: Batch) -> Tensor:
    """Return the logits of a batch."""
    return cast(Tensor, network(batch))
