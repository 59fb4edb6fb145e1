"""Stand-ins for what other rooms give a learning node of a federation: contracts, gate, snapshots, sandbox.

They hold no data: consent is a set of names, a snapshot is the names in it, and training draws numbers that only the
step, the model and the names decide.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save

from connector.identity.transfers import TransferGrant
from learning import provide
from learning.jobs import Participation, ReceivedPlan
from learning.metrics import local_metrics
from learning.models import parameter_count
from learning.ports import AgreementTerms, GateAnswer, SandboxOutput, Snapshot, TransferView
from learning.steps import Step, parse_step
from policies.canonical import canonical_json

if TYPE_CHECKING:
    from tests.support.federation import Federation, Member

COLLECTOR = "did:web:ai.example"
PURPOSE = "https://w3id.org/dpv#AcademicResearch"
FEATURES = "ab" * 32


@dataclasses.dataclass(repr=False)
class FakeContracts:
    """Agreements of the collector with every school, and transfers that start when a plan is approved."""

    federation: "Federation"
    name: str

    def agreement(self, agreement_id: str) -> AgreementTerms | None:
        """Return an agreement in force."""
        provider = agreement_id.removeprefix("urn:agreement:")
        if provider not in self.federation.members:
            return None
        return AgreementTerms(
            agreement_id=agreement_id,
            provider=provider,
            consumer=COLLECTOR,
            dataset_id=f"urn:dataset:{provider}",
            purpose=PURPOSE,
            cohort_floor=1,
        )

    def request_transfer(self, agreement_id: str) -> str:
        """Start a transfer process."""
        with self.federation.lock:
            pid = f"urn:transfer:{len(self.federation.transfers) + 1}"
            self.federation.transfers[pid] = {"agreement": agreement_id, "state": "STARTED", "reason": None}
        return pid

    def transfer(self, transfer_pid: str) -> TransferView | None:
        """Return a transfer process with a token for the newest approved plan."""
        found = self.federation.transfers.get(transfer_pid)
        if found is None:
            return None
        provider = self.federation.members[found["agreement"].removeprefix("urn:agreement:")]
        plans = provider.node.store.run("test", lambda records: records.select(ReceivedPlan))
        newest = max(plans, key=lambda plan: plan.received_at)
        grant = TransferGrant(
            transfer_pid=transfer_pid,
            agreement_id=found["agreement"],
            plan_digest=newest.plan_digest,
            consumer=COLLECTOR,
        )
        return TransferView(
            transfer_pid=transfer_pid,
            state=found["state"],
            endpoint="http://node.example/learning",
            token=provider.tokens.issue(grant),
            reason=found["reason"],
        )

    def complete_transfer(self, transfer_pid: str) -> None:
        """Complete a transfer process, and let its provider know."""
        self.end_transfer(transfer_pid, "COMPLETED", None)

    def end_transfer(self, transfer_pid: str, state: str, reason: str | None) -> None:
        """End a transfer process; the provider's part ends with it."""
        found = self.federation.transfers[transfer_pid]
        if found["state"] in ("COMPLETED", "TERMINATED"):
            return
        found |= {"state": state, "reason": reason}
        provider = self.federation.members[found["agreement"].removeprefix("urn:agreement:")]
        for part in provider.node.store.run("test", lambda records: records.select(Participation)):
            if part.transfer_pid == transfer_pid:
                provide.stop(provider.node, part.job_id, f"the transfer process was {state.lower()}: {reason}")


def transfer_state(federation: "Federation", pid: str) -> str | None:
    found = federation.transfers.get(pid)
    return found["state"] if found else None


@dataclasses.dataclass(repr=False)
class FakeGate:
    """Everybody in ``subjects`` consents, and nobody else."""

    made: Sequence["Member"]

    def floor_met(self, agreement_id: str, floor: int, purpose: str) -> bool:
        """Say whether enough learners consent."""
        return len(self.made[0].subjects) >= floor

    def check(
        self, agreement_id: str, purpose: str, algorithm_class: str, floor: int, *, job_id: str, round_number: int
    ) -> GateAnswer:
        """Decide about one round."""
        subjects = frozenset(self.made[0].subjects)
        if len(subjects) < floor:
            return GateAnswer(allowed=False, reasons=("too few learners consent",))
        return GateAnswer(allowed=True, subjects=subjects)

    def release(
        self,
        agreement_id: str,
        purpose: str,
        algorithm_class: str,
        subjects: int | None,
        *,
        job_id: str,
        round_number: int,
    ) -> GateAnswer:
        """Decide whether the model may leave."""
        kept = self.made[0].keeps_model
        return GateAnswer(allowed=not kept, reasons=(kept,) if kept else ())

    def used(
        self,
        agreement_id: str,
        job_id: str,
        round_number: int,
        subjects: frozenset[str],
        *,
        seconds: float,
        epsilon: float,
    ) -> None:
        """Note whose rows were read."""
        self.made[0].used.append((round_number, subjects))


@dataclasses.dataclass(repr=False)
class FakeSnapshots:
    """A snapshot is the names of its subjects."""

    made: Sequence["Member"]

    def prepare(self, dataset_id: str, job_id: str, subjects: frozenset[str]) -> Snapshot:
        """Return a snapshot."""
        return Snapshot(
            path=Path("_".join(sorted(subjects))),
            rows=10 * len(subjects),
            subjects=len(subjects),
            train_rows=8 * len(subjects),
            learners=tuple(sorted(subjects)),
        )

    def facts(self, dataset_id: str) -> Mapping[str, Any]:
        """Return the dataset's facts."""
        return {"shape": "outcomes", "features": FEATURES, "train_rows": 8 * len(self.made[0].subjects)}

    def forget(self, job_id: str) -> None:
        """Nothing is kept."""


@dataclasses.dataclass(repr=False)
class FakeTrainer:
    """Trains by drawing numbers that only the step, the model and the subjects decide."""

    made: Sequence["Member"]

    def run(self, step: Mapping[str, Any], weights: bytes, snapshot: Path) -> SandboxOutput:
        """Return an update and metrics."""
        member = self.made[0]
        if member.fails is not None:
            raise member.fails
        parsed = parse_step(step)
        seed = hashlib.sha256(canonical_json(dict(step)) + weights + str(snapshot).encode()).digest()
        random = np.random.default_rng(int.from_bytes(seed[:8], "big"))
        rows = 8 * (str(snapshot).count("_") + 1)
        if parsed.learners:
            return SandboxOutput(data=_learners(parsed, str(snapshot)), cost={"cpu_seconds": 0.1, "wall_seconds": 0.1})
        tensors: dict[str, Any] = {"train_rows": np.array([rows]), "epochs": np.array([1])}
        size = parameter_count(parsed.model)
        if parsed.mode == "train":
            tensors["delta"] = random.normal(0, 0.1, size).astype(np.float32)
        if parsed.mode in ("baseline", "finetune"):
            tensors["weights"] = random.normal(0, 0.1, size).astype(np.float32)
        for split in parsed.splits:
            labels = random.integers(0, 2, rows)
            for name, array in local_metrics(random.uniform(0, 1, rows), labels, small=parsed.small).items():
                tensors[f"metrics.{split}.{name}"] = array
        return SandboxOutput(data=save(tensors), cost={"cpu_seconds": 0.1, "wall_seconds": 0.1})


def _learners(step: Step, snapshot: str) -> bytes:
    """Return an output in which each learner's numbers are decided by its name and the step alone."""
    names = snapshot.split("_")
    assert len(names) == step.learners
    size = parameter_count(step.model)
    randoms = [np.random.default_rng([step.seed % 2**32, *name.encode()]) for name in names]
    tensors: dict[str, Any] = {"train_rows": np.array([int(random.integers(0, 9)) for random in randoms])}
    if step.mode == "train":
        deltas = np.stack([random.normal(0, 0.1, size) for random in randoms]).astype(np.float32)
        deltas[tensors["train_rows"] == 0] = 0
        tensors["deltas"] = deltas
    for split in step.splits:
        sums = [local_metrics(random.uniform(0, 1, 3), random.integers(0, 2, 3)) for random in randoms]
        for name in sums[0]:
            tensors[f"metrics.{split}.{name}"] = np.stack([one[name] for one in sums])
    return save(tensors)
