"""What the demo prints while it runs."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


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
