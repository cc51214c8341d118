"""The figures of a run, and the table that they make."""

from collections.abc import Sequence
from statistics import median

import attrs

HS, SYNAPSE, EARLIER = "hs", "Synapse", "earlier hs"


@attrs.define
class Figures:
    """CPU times in milliseconds, by operation and server, of each repetition."""

    values: dict[tuple[str, str], list[float]] = attrs.Factory(dict)

    def add(self, operation: str, server: str, cpu_ms: float) -> str:
        """Record a figure, and return it as a line of text."""
        self.values.setdefault((operation, server), []).append(cpu_ms)
        return f"{operation}, {server}: {cpu_ms:.2f} ms"

    def lines(self) -> list[str]:
        """Return the table with the medians, the factors, and all values."""
        has_earlier = any(server == EARLIER for _, server in self.values)
        columns = ["operation", SYNAPSE, *([EARLIER] if has_earlier else []), HS, "factor", "all"]
        table = [_row(columns), _row(["---"] * len(columns))]
        for operation in dict.fromkeys(operation for operation, _ in self.values):
            values = {
                server: self.values.get((operation, server), [])
                for server in (SYNAPSE, EARLIER, HS)
                if server != EARLIER or has_earlier
            }
            theirs, ours = values[SYNAPSE], values[HS]
            factor = f"{median(theirs) / median(ours):.1f}" if theirs and ours else ""
            listed = "; ".join(map(_listed, values.values()))
            table.append(_row([operation, *map(_cell, values.values()), factor, listed]))
        return table


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(values: list[float]) -> str:
    return f"{median(values):.2f}" if values else ""


def _listed(values: list[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)
