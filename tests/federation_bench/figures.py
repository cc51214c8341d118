"""The figures of a run, and the table that they make."""

from statistics import median

import attrs

HS, SYNAPSE = "hs", "Synapse"


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
        table = ["| operation | Synapse | hs | factor | all of Synapse; of hs |"]
        table.append("| --- | ---: | ---: | ---: | --- |")
        for operation in dict.fromkeys(operation for operation, _ in self.values):
            theirs = self.values.get((operation, SYNAPSE), [])
            ours = self.values.get((operation, HS), [])
            cells = [
                operation,
                _cell(theirs),
                _cell(ours),
                f"{median(theirs) / median(ours):.1f}" if theirs and ours else "",
                f"{_listed(theirs)}; {_listed(ours)}",
            ]
            table.append(f"| {' | '.join(cells)} |")
        return table


def _cell(values: list[float]) -> str:
    return f"{median(values):.2f}" if values else ""


def _listed(values: list[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)
