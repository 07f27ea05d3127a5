"""What a person sees of a run: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 200)


class Progress:
    """A context manager; one instance a run. total: of what `unit` names."""

    def __init__(self, total: int, unit: str = "iterations") -> None:
        self._bar = Bar(
            TextColumn("{task.description:<14}"),
            BarColumn(),
            TextColumn(f"{{task.completed}}/{{task.total}} {unit}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("start", total=total)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    @contextmanager
    def step(self, name: str, iteration: int) -> Iterator[None]:
        """Show which step is at work."""
        self._bar.update(self._task, description=f"{name} {iteration or ''}")
        yield

    def advance(self, total: int) -> None:
        """One more is done, of so many."""
        self._bar.update(self._task, advance=1, total=total)

    def say(self, line: str) -> None:
        """One line."""
        console.print(line, soft_wrap=True)

    def evaluated(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Accuracy of one policy."""
        self.say(
            f"policy {iteration}: held-out accuracy {metrics['accuracy']:.3f} "
            f"(mean@{metrics['k']:.0f}), maj@{metrics['k']:.0f} {metrics['maj@k']:.3f}"
        )

    def iterated(self, iteration: int, metrics: Mapping[str, float], fresh: bool) -> None:
        """One finished iteration."""
        self._bar.update(self._task, completed=iteration)
        if not fresh:
            return
        saved = 1 - metrics["rollout/sampled_tokens"] / metrics["rollout/trajectory_tokens"]
        spent = sum(value for key, value in metrics.items() if key.startswith("time/"))
        # Without an informative tree there is no step, and nothing was computed.
        entropy = metrics.get("update/entropy")
        learned = "no update" if entropy is None else f"entropy {entropy:.2f}"
        self.say(
            f"iteration {iteration}: reward {metrics['reward/mean']:.3f}, "
            f"informative trees {metrics['reward/informative_trees']:.0f}/"
            f"{metrics['rollout/trees']:.0f}, tokens saved {saved:.0%}, "
            f"{learned}, {spent:.1f} s"
        )
