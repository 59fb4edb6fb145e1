"""Runs Flower's own SecAgg+ workflow and client mod in one process, without a network, and prints one line of JSON.

Needs ``flwr`` and numpy and nothing of this project: it runs in an environment of its own. The grid below hands every
message of the workflow straight to the mod of the client it is for; what real Flower spends on gRPC and protobuf is
not counted. CPU inside the mod is the client's, all other CPU of the workflow is the server's.

Run: ``python secaggplus.py --n 100 --d 1000000 --shares 21 --threshold 14 --dropout 5``.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import Code, FitRes, Parameters, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.compat.common import recorddict_compat as compat
from flwr.server import Grid, LegacyContext, SimpleClientManager
from flwr.server.compat.grid_client_proxy import GridClientProxy
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.supercore.task_identity import TaskIdentity

RUN, SERVER = 1, 1
STAGES = ("setup", "share keys", "collect masked vectors", "unmask")


def update(number: int, d: int) -> np.ndarray:
    """Return the update of client ``number``, float32."""
    return np.random.default_rng(number).standard_normal(d, dtype=np.float32) * np.float32(0.1)


class Clients(Grid):
    """A grid whose nodes are the clients themselves; ``dead`` ones do not answer from the third stage on."""

    def __init__(self, n: int, d: int, dead: set[int]) -> None:
        self.d, self.dead = d, dead
        self.contexts = {node: Context(RUN, node, {}, RecordDict(), {}) for node in range(10, 10 + n)}
        self.stage = 0
        self.cpu = dict.fromkeys(STAGES, 0.0)
        self.training = 0.0
        self.upload = 0

    def set_run(self, run: object) -> None:
        """Do nothing: there is one run."""

    @property
    def run(self) -> object:
        """Return nothing: nobody asks."""
        return None

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None):
        """Return a message."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the clients."""
        return list(self.contexts)

    def push_messages(self, messages):
        """Refuse: the workflow only sends and receives."""
        raise TypeError(type(messages))

    pull_messages = push_messages

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Give every message to its client's mod and return the replies."""
        replies = []
        for number, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = f"{self.stage}-{number}"
            node = message.metadata.dst_node_id
            if self.stage >= 2 and node in self.dead:
                replies.append(Message(Error(code=0, reason="the client is gone"), reply_to=message))
                continue
            # Real clients get a copy of their own; the mod pops keys from what it is given.
            content = RecordDict(dict(message.content.items()))
            for name, record in message.content.config_records.items():
                content.config_records[name] = ConfigRecord(dict(record.items()))
            message.content = content
            before, trained = time.process_time(), self.training
            reply = secaggplus_mod(message, self.contexts[node], self.train)
            spent = time.process_time() - before - (self.training - trained)
            self.cpu[STAGES[self.stage]] += spent
            if self.stage == 2:
                self.upload = max(self.upload, size(reply.content))
            replies.append(reply)
        self.stage += 1
        return replies

    def train(self, message: Message, context: Context) -> Message:
        """Return a client's update; its cost is nobody's."""
        before = time.process_time()
        parameters = ndarrays_to_parameters([update(context.node_id - 10, self.d)])
        result = FitRes(Status(Code.OK, ""), parameters, num_examples=1, metrics={})
        reply = Message(compat.fitres_to_recorddict(result, keep_input=False), reply_to=message)
        self.training += time.process_time() - before
        return reply


def size(content: RecordDict) -> int:
    """Return the bytes in a reply's values, without any framing."""
    total = 0
    for record in content.config_records.values():
        for value in record.values():
            items = value if isinstance(value, list) else [value]
            total += sum(len(item) if isinstance(item, (bytes, str)) else 8 for item in items)
    return total


class AllClients(SimpleClientManager):
    """Every client takes part, and none has to be waited for."""

    def wait_for(self, num_clients: int, timeout: int = 86400) -> bool:
        """Return at once."""
        return True


def run(n: int, d: int, shares: int, threshold: int, dropout: float) -> dict[str, object]:
    """Return what one round of SecAgg+ cost, and how far its mean is from the true one."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, SERVER, 1
    dead = set(np.random.default_rng(n).choice(np.arange(10, 10 + n), round(n * dropout / 100), replace=False).tolist())
    grid = Clients(n, d, dead)
    manager = AllClients()
    for node in grid.get_node_ids():
        manager.register(GridClientProxy(node, grid, RUN))
    strategy = FedAvg(min_fit_clients=n, min_available_clients=n, fraction_fit=1.0)
    context = LegacyContext(Context(RUN, SERVER, {}, RecordDict(), {}), strategy=strategy, client_manager=manager)
    start = compat.parameters_to_arrayrecord(ndarrays_to_parameters([np.zeros(d, dtype=np.float32)]), keep_input=False)
    context.state.array_records["parameters"] = start
    context.state.config_records["config"] = ConfigRecord({"current_round": 1})
    workflow = SecAggPlusWorkflow(num_shares=shares, reconstruction_threshold=threshold, max_weight=1.0)
    before = time.process_time()
    workflow(grid, context)
    total = time.process_time() - before - grid.training
    finished = bool(context.history.metrics_distributed_fit) or context.state.array_records["parameters"] is not start
    clients = sum(grid.cpu.values())
    return {
        "finished": finished,
        "total": total,
        "server": total - clients,
        "clients": clients,
        "per_client": clients / n,
        "stages": grid.cpu,
        "upload": grid.upload,
        "error": error_of(context, n, d, dead) if finished else None,
        "peak": peak_bytes(),
    }


def error_of(context: LegacyContext, n: int, d: int, dead: set[int]) -> float:
    """Return the largest difference between the round's mean and the true mean of the survivors."""
    record = compat.arrayrecord_to_parameters(context.state.array_records["parameters"], keep_input=True)
    (mean,) = parameters_to_ndarrays(Parameters(record.tensors, record.tensor_type))
    alive = [number for number in range(n) if number + 10 not in dead]
    true = np.zeros(d)
    for number in alive:
        true += update(number, d)
    return float(np.abs(mean - true / len(alive)).max())


def peak_bytes() -> int:
    """Return the most memory that this process has held."""
    with Path("/proc/self/status").open(encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def main() -> int:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, required=True)
    parser.add_argument("--d", type=int, required=True)
    parser.add_argument("--shares", type=int, required=True)
    parser.add_argument("--threshold", type=int, required=True)
    parser.add_argument("--dropout", type=float, default=0.0)
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    print(json.dumps(run(given.n, given.d, given.shares, given.threshold, given.dropout)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
