"""The figures of a run and the table that the summary prints."""

import math
import time
from collections.abc import Awaitable, Callable

import attrs


@attrs.frozen(kw_only=True)
class Figure:
    """The least cost of one operation, of several that were measured.

    `cpu_ms` is of this process, with its SQLite threads; PostgreSQL's processes are in `wall_ms`.
    """

    row: str
    engine: str
    size: int
    wall_ms: float
    cpu_ms: float


@attrs.define
class Growth:
    """Records what operations cost."""

    figures: list[Figure] = attrs.Factory(list)

    async def measure(
        self,
        row: str,
        engine: str,
        size: int,
        operation: Callable[[], Awaitable[object]],
        *,
        repeat: int = 5,
    ) -> None:
        """Record the least cost of an operation; it is awaited once before, to fill caches."""
        await operation()
        wall_s = cpu_s = math.inf
        for _ in range(repeat):
            wall, cpu = time.perf_counter(), time.process_time()
            await operation()
            wall_s = min(wall_s, time.perf_counter() - wall)
            cpu_s = min(cpu_s, time.process_time() - cpu)
        self.add(row, engine, size, wall_ms=wall_s * 1000, cpu_ms=cpu_s * 1000)

    def add(self, row: str, engine: str, size: int, *, wall_ms: float, cpu_ms: float) -> None:
        """Record a cost that the caller has measured."""
        figure = Figure(row=row, engine=engine, size=size, wall_ms=wall_ms, cpu_ms=cpu_ms)
        self.figures.append(figure)

    def lines(self) -> list[str]:
        """Return the table: a line for each row and engine, with the figures of all sizes."""
        grouped: dict[tuple[str, str], list[Figure]] = {}
        for figure in self.figures:
            grouped.setdefault((figure.row, figure.engine), []).append(figure)
        table = [("what", "engine", "size: ms (of these CPU)")]
        for (row, engine), figures in grouped.items():
            sizes = sorted(figures, key=lambda figure: figure.size)
            cells = (f"{f.size:,}: {f.wall_ms:.1f} ({f.cpu_ms:.1f})" for f in sizes)
            table.append((row, engine, " · ".join(cells)))
        return [f"| {' | '.join(cells)} |" for cells in table]
