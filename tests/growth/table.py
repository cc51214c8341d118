"""The figures of a run and the table that the summary prints."""

import math
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import attrs
import trio

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Figure:
    """The least cost of one operation, of several that were measured.

    `cpu_ms` is of this process, with its SQLite threads; PostgreSQL's processes are in `wall_ms`.
    `step_ms` is the longest time for which no other task could run, or None.
    """

    row: str
    engine: str
    size: int
    wall_ms: float
    cpu_ms: float
    step_ms: float | None = None

    def cell(self) -> str:
        """Return the figures as text."""
        step = "" if self.step_ms is None else f", {self.step_ms:.0f} at once"
        return f"{self.size:,}: {self.wall_ms:.1f} ({self.cpu_ms:.1f}{step})"


class LongestStep(trio.abc.Instrument):
    """Measures the longest step of any task."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._began_s = 0.0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Note when a task goes on."""
        self._began_s = time.perf_counter()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Note for how long it ran. The measurement begins within a step, which is left out."""
        if self._began_s:
            self.longest_s = max(self.longest_s, time.perf_counter() - self._began_s)


@attrs.define
class Growth:
    """Records what operations cost."""

    figures: list[Figure] = attrs.Factory(list)

    async def measure(
        self,
        row: str,
        engine: str,
        size: int,
        operation: Callable[[], Awaitable[T]],
        *,
        repeat: int = 5,
    ) -> T:
        """Record the least cost of an operation; it is awaited once before, to fill caches.

        What a client does with the answer is no cost of the server: this returns the last answer.
        """
        answer = await operation()
        wall_s = cpu_s = step_s = math.inf
        for _ in range(repeat):
            step = LongestStep()
            trio.lowlevel.add_instrument(step)
            await trio.lowlevel.checkpoint()
            wall, cpu = time.perf_counter(), time.process_time()
            answer = await operation()
            wall_s = min(wall_s, time.perf_counter() - wall)
            cpu_s = min(cpu_s, time.process_time() - cpu)
            await trio.lowlevel.checkpoint()
            trio.lowlevel.remove_instrument(step)
            step_s = min(step_s, step.longest_s)
        self.add(
            row,
            engine,
            size,
            wall_ms=wall_s * 1000,
            cpu_ms=cpu_s * 1000,
            step_ms=step_s * 1000,
        )
        return answer

    def add(
        self,
        row: str,
        engine: str,
        size: int,
        *,
        wall_ms: float,
        cpu_ms: float,
        step_ms: float | None = None,
    ) -> None:
        """Record a cost that the caller has measured."""
        figure = Figure(
            row=row, engine=engine, size=size, wall_ms=wall_ms, cpu_ms=cpu_ms, step_ms=step_ms
        )
        self.figures.append(figure)

    def lines(self) -> list[str]:
        """Return the table: a line for each row and engine, with the figures of all sizes."""
        grouped: dict[tuple[str, str], list[Figure]] = {}
        for figure in self.figures:
            grouped.setdefault((figure.row, figure.engine), []).append(figure)
        table = [("what", "engine", "size: ms (of these CPU, the longest step of a task)")]
        for (row, engine), figures in grouped.items():
            sizes = sorted(figures, key=lambda figure: figure.size)
            table.append((row, engine, " · ".join(figure.cell() for figure in sizes)))
        return [f"| {' | '.join(cells)} |" for cells in table]
