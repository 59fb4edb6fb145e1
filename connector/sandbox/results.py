"""What running a step in the sandbox gives back: a result, or an error that says why not."""

import dataclasses
from pathlib import Path
from typing import Literal, TypeAlias

FailureKind: TypeAlias = Literal["violation", "timeout", "memory", "crash", "output", "unavailable"]


class SandboxError(Exception):
    """A step did not end as it should.

    ``kind``: ``violation`` (it tried what a step may not), ``timeout``, ``memory``, ``crash``, ``output`` (not exactly
    one ``out.safetensors`` under the cap) or ``unavailable`` (the sandbox itself cannot run). ``detail`` names the
    reason, e.g. ``socket (tcp)``, and never holds data.
    """

    code = "sandbox"

    def __init__(self, kind: FailureKind, detail: str) -> None:
        """Make the error of a step that failed in the way ``kind`` says."""
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
        self.code = f"sandbox-{kind}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepResult:
    """A step that ended well."""

    output: Path
    """The one file that it wrote, ``out_dir/out.safetensors``."""
    cpu_seconds: float
    wall_seconds: float
    max_rss_bytes: int
    """The peak resident memory, the preloaded libraries included."""
    rungs: tuple[str, ...]
    """The rungs of the ladder that held it."""
