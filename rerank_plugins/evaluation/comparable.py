"""What evaluations and sweeps have in common: values by question, to be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from rerank_plugins.errors import ConfigurationError
from rerank_plugins.evaluation.metrics import Scores
from rerank_plugins.evaluation.significance import Comparison, compare


class Comparable:
    """Systems measured on the same questions.

    Attributes:
        measures: Names of the measures.
    """

    measures: tuple[str, ...]

    def _measured(self) -> Iterable[tuple[str, Mapping[str, Sequence[float]]]]:
        """Return each system's name, and its values by measure."""
        raise NotImplementedError

    def values_of(self, measure: str) -> dict[str, Scores]:
        """Return one value a question for each system, by its name.

        Raises:
            ConfigurationError: If the measure was not measured.
        """
        if measure not in self.measures:
            message = f"measure is {measure!r}; measured were {', '.join(self.measures)}."
            raise ConfigurationError(message)
        return {name: np.array(values[measure]) for name, values in self._measured()}

    def compare(self, measure: str = "nDCG@10", *, alpha: float = 0.05) -> Comparison:
        """Say which system is better; see :func:`~rerank_plugins.evaluation.compare`."""
        return compare(self, measure, alpha=alpha)
