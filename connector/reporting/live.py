"""A running job told on a terminal: sentences as they happen, and a bar for the rounds."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

_DONE = "contributors; model before it"


class Narrator(Protocol):
    """Tells whoever watches what happens."""

    def chapter(self, title: str) -> None:
        """Begin a part."""
        ...

    def say(self, text: str) -> None:
        """Say one thing that happened."""
        ...

    def round(self, number: int, total: int, text: str) -> None:
        """Report a finished round."""
        ...


class ConsoleNarrator:
    """Prints chapters and sentences, and keeps a bar for the rounds. A terminal is not needed."""

    def __init__(self, console: Console) -> None:
        """Print to ``console``."""
        self._console = console
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def chapter(self, title: str) -> None:
        """Begin a part."""
        self._console.print(f"\n[bold]{title}[/bold]")

    def say(self, text: str) -> None:
        """Say one thing that happened."""
        self._console.print(f"  {text}", highlight=False, markup=False)

    def round(self, number: int, total: int, text: str) -> None:
        """Report a finished round."""
        if self._progress is None and self._console.is_terminal:
            columns = (TextColumn("  rounds"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._progress = Progress(*columns, console=self._console, transient=True)
            self._progress.start()
            self._task = self._progress.add_task("rounds", total=total)
        self.say(text)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=number)

    def close(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def tell_events(
    events: Iterable[tuple[str, Mapping[str, Any]]],
    total: int,
    narrator: Narrator,
    on_round: Callable[[int], None] = lambda _number: None,
) -> bool:
    """Tell a job's events (``/management/jobs/{id}/events``) until its end; False when they broke off before it.

    Args:
        events: (code, data) as they come.
        total: rounds with the last, measuring one.
        narrator: told of everything.
        on_round: told of each finished round's number.
    """
    for code, data in events:
        if code == "end":
            return True
        text = str(data.get("text"))
        if code.startswith("round-") and _DONE in text:
            number = int(code.removeprefix("round-"))
            narrator.round(number, total, text)
            on_round(number)
        else:
            narrator.say(text)
    return False
