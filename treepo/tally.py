"""Named numbers collected over micro-batches: weighted means and extremes."""

from __future__ import annotations

from collections import defaultdict

from torch import Tensor

Number = Tensor | float


class Tally:
    """Sums with their weights, lows and highs; tensors are read only when all is counted."""

    def __init__(self) -> None:
        self._totals: defaultdict[str, list[tuple[Number, Number]]] = defaultdict(list)
        self._lows: defaultdict[str, list[Number]] = defaultdict(list)
        self._highs: defaultdict[str, list[Number]] = defaultdict(list)

    def add_mean(self, name: str, total: Number, weight: Number = 1.0) -> None:
        """Count `total`, a weighted sum, towards the mean `name`."""
        self._totals[name].append((total, weight))

    def add_lowest(self, name: str, values: Tensor) -> None:
        """Count the values, at least one, towards the minimum `name`."""
        self._lows[name].append(values.amin())

    def add_highest(self, name: str, values: Tensor) -> None:
        """Count the values, at least one, towards the maximum `name`."""
        self._highs[name].append(values.amax())

    def merge(self, other: Tally) -> None:
        """Count what another tally holds."""
        for name, parts in other._totals.items():
            self._totals[name] += parts
        for mine, others in ((self._lows, other._lows), (self._highs, other._highs)):
            for name, numbers in others.items():
                mine[name] += numbers

    def result(self) -> dict[str, float]:
        """Every mean and extreme; a mean without weight is left out."""
        found: dict[str, float] = {}
        for name, parts in self._totals.items():
            weight = sum(float(part[1]) for part in parts)
            if weight:
                found[name] = sum(float(part[0]) for part in parts) / weight
        found |= {name: min(map(float, numbers)) for name, numbers in self._lows.items()}
        found |= {name: max(map(float, numbers)) for name, numbers in self._highs.items()}
        return found
