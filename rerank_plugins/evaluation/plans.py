"""A plan: what to use, what else there is, how sure that is, and the code for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rerank_plugins._optional import require
from rerank_plugins.evaluation.deciding import MATTERS, Decision
from rerank_plugins.evaluation.files import write_text
from rerank_plugins.evaluation.metrics import Difference
from rerank_plugins.evaluation.setups import Recipe


@dataclass(frozen=True)
class Option:
    """One way to answer questions, measured.

    Attributes:
        recipe: How.
        quality: Mean of the measure with its 95% interval.
        p50_ms: Predicted median time of one question, one after the other, on this machine.
        p95_ms: Predicted 95th percentile.
        efficient: Whether no other option is both better and faster: the frontier.
    """

    recipe: Recipe
    quality: Difference
    p50_ms: float
    p95_ms: float
    efficient: bool


@dataclass(frozen=True)
class Plan:
    """A recommendation with its evidence; print it, or show it in rich's console.

    Attributes:
        options: Everything that was measured; the first is the bi-encoder alone.
        decision: What to take and how sure that is.
        measure: What quality is: a name of ir_measures.
        budget_ms: The budget, which the 95th percentile must keep to.
        quality: Share of the best quality within the budget that was asked for.
        documents: How many passages were searched.
        questions: How many questions were measured.
        reference: The model that quality is agreement with; None where there are labels.
        skipped: Setups that were not measured, and why.
        seconds: How long planning took.
        environment: The machine and the versions it was measured with.
    """

    options: tuple[Option, ...]
    decision: Decision
    measure: str
    budget_ms: float
    quality: float
    documents: int
    questions: int
    reference: str | None
    skipped: Mapping[str, str]
    seconds: float
    environment: Mapping[str, Any]

    @property
    def recommended(self) -> Option:
        """The option to use."""
        return self.options[self.decision.chosen]

    @property
    def frontier(self) -> list[Option]:
        """The options that no other beats in both quality and latency, from fast to slow."""
        return sorted((one for one in self.options if one.efficient), key=lambda one: one.p50_ms)

    @property
    def shown(self) -> list[Option]:
        """The frontier, what is recommended, and the best of each setup, from fast to slow."""
        best: dict[str, Option] = {}
        for one in self.options:
            known = best.setdefault(one.recipe.family, one)
            if one.quality.mean > known.quality.mean:
                best[one.recipe.family] = one
        kept = [*self.frontier, self.recommended, *best.values()]
        return [one for one in sorted(self.options, key=lambda one: one.p50_ms) if one in kept]

    @property
    def langchain(self) -> str:
        """Code for LangChain that retrieves as recommended, from a list ``texts``."""
        return self.recommended.recipe.langchain()

    @property
    def llama_index(self) -> str:
        """Code for LlamaIndex that retrieves as recommended, from a list ``texts``."""
        return self.recommended.recipe.llama_index()

    @property
    def summary(self) -> str:
        """What is recommended, why, and how sure that is, in a few sentences."""
        best, decision = self.recommended, self.decision
        told = "agreement with " + self.reference if self.reference else self.measure
        first = (
            f"Use {best.recipe}: {told} {_shown(best.quality)}, {best.p50_ms:,.0f} ms "
            f"(95% of questions under {best.p95_ms:,.0f} ms; budget {self.budget_ms:,.0f} ms)."
        )
        lines = [first]
        if best.p95_ms > self.budget_ms:
            lines.append("Even that does not keep to the budget on this machine.")
        lines.append(self._why())
        if decision.verdict == "reranking hurts":
            sure = f"Reranking is behind in {decision.share:.0%} of resamples of the questions."
        else:
            sure = (
                f"The same option is chosen in {decision.share:.0%} of resamples of the questions."
            )
        return " ".join([*lines, "" if decision.verdict == "no time to rerank" else sure]).strip()

    def _why(self) -> str:
        gain = self.decision.gain
        change = (
            f"{gain.mean:+.3f} (95% interval {gain.low:+.3f} to {gain.high:+.3f})" if gain else ""
        )
        needed = self.decision.questions_needed
        wanted = (
            f"about {needed:,} labelled questions would settle a difference of this size"
            if needed
            else "label more questions"
        )
        return {
            "reranking helps": f"Reranking helps on your data: {change} over the bi-encoder alone.",
            "reranking hurts": f"Reranking hurts on your data: {change} against the bi-encoder "
            "alone. These rerankers are weaker on it than your retriever; a larger or better "
            "suited model may not be.",
            "reranking does not help": f"Reranking does not help on your data: {change}, and a "
            f"gain of {MATTERS} or more is ruled out. Leave it away.",
            "too few questions to tell": f"{self.questions} questions are too few to tell whether "
            f"reranking helps: {change}. Take this as provisional; {wanted}.",
            "no time to rerank": "No reranking that was measured keeps to the budget here.",
            "agreement only": "There are no labels: this is a proxy. It says how well each "
            f"option agrees with {self.reference}, the largest model, taken for right; it cannot "
            "say whether reranking helps. Label some dozens of questions to know.",
        }[self.decision.verdict]

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON."""
        return {
            "summary": self.summary,
            "recommended": str(self.recommended.recipe),
            **asdict(self),
            "decision": {**asdict(self.decision), "provisional": self.decision.provisional},
            "labels": [str(one.recipe) for one in self.options],
            "langchain": self.langchain,
            "llama_index": self.llama_index,
        }

    def save(self, path: str | Path) -> None:
        """Write everything as JSON."""
        write_text(Path(path), json.dumps(self.to_dict(), indent=1) + "\n")

    def plot(self, path: str | Path) -> Path:
        """Draw quality against latency; the ending of the name says which format.

        Raises:
            ConfigurationError: If the format is unknown.
            MissingDependencyError: If the extra ``plot`` is not installed.
        """
        drawn: Path = require("rerank_plugins.evaluation.plots", None).draw(self, Path(path))
        return drawn

    def __str__(self) -> str:
        """Return the summary, and the options worth a look."""
        rows = [
            f"  {_shown(one.quality)}  {one.p50_ms:>7,.0f} ms  {one.recipe}"
            + ("  <- recommended" if one is self.recommended else "")
            for one in self.shown
        ]
        return "\n".join([self.summary, "", *rows])

    def __rich__(self) -> object:
        """Return the summary and a table for rich's console."""
        return require("rerank_plugins.evaluation.tables", None).plan_view(self)


def _shown(value: Difference) -> str:
    return f"{value.mean:.3f} ({value.low:.3f} to {value.high:.3f})"
