"""CPU seconds by role and part: a stopwatch, and wrappers that count what a function of the core costs where it is used."""

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any


class Stopwatch:
    """Adds up the CPU seconds of this thread by (role, part); what is measured inside a part is taken out of it."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.seconds: Counter[tuple[str, str]] = Counter()
        self._role = ""
        self._inner: list[float] = []

    @contextmanager
    def role(self, role: str, part: str) -> Iterator[None]:
        """Count what happens inside under ``role``: as ``part`` where no inner part claims it."""
        before, self._role = self._role, role
        try:
            with self.part(part):
                yield
        finally:
            self._role = before

    @contextmanager
    def part(self, part: str) -> Iterator[None]:
        """Count what happens inside as ``part`` of the role at work."""
        self._inner.append(0.0)
        start = time.thread_time()
        try:
            yield
        finally:
            spent = time.thread_time() - start
            self.seconds[self._role, part] += spent - self._inner.pop()
            if self._inner:
                self._inner[-1] += spent

    def wrap(self, place: ModuleType | type, function: str, part: str) -> None:
        """Count every call of ``place.function`` as ``part``, for the rest of this process."""
        original: Callable[..., Any] = getattr(place, function)

        @functools.wraps(original)
        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.part(part):
                return original(*args, **kwargs)

        setattr(place, function, counted)


def peak_bytes() -> int:
    """Return the most memory that this process has held (Linux)."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmHWM"))
