"""Plans: the choice of a reranking setup for a dataset and a latency budget."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations, product
from pathlib import Path
from time import perf_counter
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from rerank_plugins._lazy import require
from rerank_plugins._progress import chunks
from rerank_plugins.config import MINI, validate_count, validate_number
from rerank_plugins.core.bi_encoder import BiEncoder
from rerank_plugins.core.cascade import Cascade
from rerank_plugins.core.reranker import Reranker
from rerank_plugins.errors import ConfigurationError, RerankError
from rerank_plugins.evaluation.candidates import CandidatePool, PairScores, by_score
from rerank_plugins.evaluation.datasets import RetrievalSet, as_retrieval_set
from rerank_plugins.evaluation.evaluator import environment, write_bytes
from rerank_plugins.evaluation.metrics import Difference, Scores, folds_of, paired_bootstrap
from rerank_plugins.evaluation.sweeper import (
    MEASURED_DEPTH,
    Cell,
    RerankStep,
    Setup,
    Sweep,
    Trial,
    bi_encoder_trial,
    default_setups,
    langchain_code,
    llama_index_code,
    measure_cells,
    setup_trial,
)

DEPTHS: Final = (5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 1000)
"""Depths that a plan considers, up to the deepest pool of candidates."""

KEEPS: Final = (5, 10, 20)
"""Numbers of candidates that the first model of a cascade keeps."""

_PILOT_DEPTHS: Final = (4, 20)
_MIN_DEPTH: Final = 10
_SILVER_DEPTH: Final = 10
"""Number of documents with a silver label per question."""

_BEYOND_BUDGET: Final = 1.5
"""Depths are measured up to this multiple of the budget, to show what more time brings."""


Verdict = Literal[
    "reranking helps",
    "reranking hurts",
    "reranking does not help",
    "too few questions to tell",
    "no time to rerank",
    "agreement only",
]

RELEVANT_GAIN: Final = 0.02
"""Smallest gain of nDCG that matters to users. A gain that is certainly smaller is no help."""

MIN_QUESTIONS: Final = 20
"""With fewer questions, bootstrap intervals are too narrow."""


@dataclass(frozen=True)
class Plan:
    """A recommended setup with its evidence; print it, or show it in rich's console.

    Attributes:
        sweep: The measured options; the first one is the bi-encoder alone.
        decision: The chosen option and the confidence in it.
        encoder: The bi-encoder.
        budget_ms: The budget, in milliseconds for the 95th percentile.
        quality: The requested share of the best quality within the budget.
        reference: The model whose ranking served as silver labels; None with real labels.
        skipped: Setups that were not measured, with the reason.
        seconds: Duration of planning.
    """

    sweep: Sweep
    decision: Decision
    encoder: str
    budget_ms: float
    quality: float
    reference: str | None
    skipped: Mapping[str, str]
    seconds: float

    @property
    def measure(self) -> str:
        """Name of the quality measure."""
        return self.sweep.measures[0]

    @property
    def recommended(self) -> Cell:
        """The option to use."""
        return self.sweep.cells[self.decision.chosen]

    @property
    def frontier(self) -> list[Cell]:
        """The options that no other beats in both quality and latency, from fast to slow."""
        cells = self.sweep.cells
        means = np.array([np.mean(cell.values[self.measure]) for cell in cells])
        medians = np.array([cell.latency_ms[0] for cell in cells])
        return [cells[number] for number in frontier(means, medians)]

    @property
    def highlights(self) -> list[Cell]:
        """The frontier, the recommendation, and the best option of each setup, fast to slow."""
        best: dict[tuple[str, ...], Cell] = {}
        for cell in self.sweep.cells:
            setups = tuple(str(step.setup) for step in cell.steps)
            rival = best.setdefault(setups, cell)
            if np.mean(cell.values[self.measure]) > np.mean(rival.values[self.measure]):
                best[setups] = cell
        chosen = {id(cell) for cell in (*self.frontier, self.recommended, *best.values())}
        cells = [cell for cell in self.sweep.cells if id(cell) in chosen]
        return sorted(cells, key=lambda cell: cell.latency_ms)

    @property
    def langchain(self) -> str:
        """LangChain code for the recommendation; it retrieves from a list ``texts``."""
        return langchain_code(self.encoder, self.recommended.steps)

    @property
    def llama_index(self) -> str:
        """LlamaIndex code for the recommendation; it retrieves from a list ``texts``."""
        return llama_index_code(self.encoder, self.recommended.steps)

    @property
    def summary(self) -> str:
        """The recommendation, its reason and its confidence, in a few sentences."""
        best, decision = self.recommended, self.decision
        measure = "agreement with " + self.reference if self.reference else self.measure
        median, p95 = best.latency_ms
        recommendation = (
            f"Use {best.label}: {measure} {best.interval(self.measure):.3f}, {median:,.0f} ms "
            f"(95% of questions under {p95:,.0f} ms; budget {self.budget_ms:,.0f} ms)."
        )
        sentences = [recommendation]
        if p95 > self.budget_ms:
            sentences.append("Even the bi-encoder alone exceeds the budget on this machine.")
        sentences.append(self._reason())
        share = f"in {decision.share:.0%} of bootstrap resamples of the questions."
        if decision.verdict == "reranking hurts":
            sentences.append(f"Reranking is worse {share}")
        elif decision.verdict != "no time to rerank":
            sentences.append(f"The same option is chosen {share}")
        return " ".join(sentences)

    def _reason(self) -> str:
        gain, needed = self.decision.gain, self.decision.questions_needed
        change = f"{gain:+.3f}".replace("(", "(95% interval ") if gain else ""
        advice = "label more questions"
        if needed:
            advice = f"about {needed:,} labeled questions would show a difference of this size"
        return {
            "reranking helps": f"Reranking helps on your data: {change} over the bi-encoder alone.",
            "reranking hurts": f"Reranking hurts on your data: {change} over the bi-encoder "
            "alone. These rerankers are weaker on your data than your retriever; a larger or "
            "better suited model may help.",
            "reranking does not help": f"Reranking does not help on your data: {change}, and a "
            f"gain of {RELEVANT_GAIN} or more is ruled out.",
            "too few questions to tell": f"{len(self.sweep.questions)} questions are too few to "
            f"tell whether reranking helps: {change}. The recommendation is provisional; {advice}.",
            "no time to rerank": "No measured reranking fits the budget.",
            "agreement only": "Without labels this is a proxy: it measures how well each option "
            f"agrees with {self.reference}, the largest model, not whether reranking helps. "
            "Label a few dozen questions to measure that.",
        }[self.decision.verdict]

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON."""
        return {
            "summary": self.summary,
            "recommended": self.recommended.label,
            "decision": {**asdict(self.decision), "provisional": self.decision.provisional},
            "encoder": self.encoder,
            "budget_ms": self.budget_ms,
            "quality": self.quality,
            "reference": self.reference,
            "skipped": dict(self.skipped),
            "seconds": self.seconds,
            "langchain": self.langchain,
            "llama_index": self.llama_index,
            **self.sweep.to_dict(),
        }

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON."""
        write_bytes(Path(path), f"{json.dumps(self.to_dict(), indent=1)}\n".encode())

    def plot(self, path: str | Path) -> Path:
        """Draw quality against latency; the file extension selects the format.

        Raises:
            ConfigurationError: If the format is unknown.
            MissingDependencyError: If the extra ``plot`` is not installed.
        """
        file: Path = require("rerank_plugins.evaluation.views", None).draw_plan(self, Path(path))
        return file

    def __str__(self) -> str:
        """Return the summary and the most relevant options."""
        rows = [
            f"  {cell.interval(self.measure):.3f}  {cell.latency_ms[0]:>7,.0f} ms  "
            f"{cell.label}" + ("  <- recommended" if cell is self.recommended else "")
            for cell in self.highlights
        ]
        return "\n".join([self.summary, "", *rows])

    def __rich__(self) -> object:
        """Return the summary and a table for rich's console."""
        return require("rerank_plugins.evaluation.views", None).plan_view(self)


def plan(
    data: str | Path | RetrievalSet,
    budget_ms: float = 100.0,
    *,
    quality: float = 0.99,
    models: Sequence[str] = (MINI,),
    setups: Sequence[Setup] | None = None,
    encoder: str = MINI,
    measure: str = "nDCG@10",
    split: str | None = "test",
    max_questions: int = 300,
    time_limit_s: float = 150.0,
    seed: int = 0,
    show_progress: bool | None = None,
) -> Plan:
    """Recommend a setup for your data, your machine and your latency budget.

    Runs a sweep: the bi-encoder alone, each setup at increasing depths, and cascades of each
    two models. Among the options that fit the budget, the plan recommends the fastest whose
    quality is at least ``quality`` times the best. The machine should be otherwise idle.

    Args:
        data: A folder in BEIR's layout, or a set. A few hundred labeled questions are enough.
            Without judgments quality is agreement with the largest model, which is a proxy.
        budget_ms: Maximum 95th percentile of the time per question in milliseconds, the
            bi-encoder's search included.
        quality: Share of the best quality within the budget that is good enough.
        models: Cross-encoders to try, with the backends and data types that fit this machine.
        setups: Setups to try instead of ``models``.
        encoder: The bi-encoder.
        measure: A name of ir_measures; higher must be better.
        split: The judgments to read from a folder; None ignores them.
        max_questions: Size of the random sample of questions, if there are more.
        time_limit_s: Approximate duration of the sweep, after the passages are embedded. If it
            is too short, fewer candidates and then fewer questions are measured, but at least
            20 questions.
        seed: Seed of samples and resampling.
        show_progress: Whether to show a progress bar; None shows it in a terminal.

    Raises:
        ConfigurationError: If a setting is out of range, or no setup can be used.
        InvalidInputError: If the set is empty.
        MissingDependencyError: If the extra ``evaluation`` is not installed.
    """
    start = perf_counter()
    validate_number("budget_ms", budget_ms, low=1)
    validate_number("time_limit_s", time_limit_s, low=1)
    validate_number("quality", quality, low=0.01, high=1)
    validate_count("max_questions", max_questions)
    show = sys.stderr.isatty() if show_progress is None else show_progress
    setups = default_setups(models) if setups is None else setups
    if not setups:
        message = "there is nothing to try: models or setups is empty."
        raise ConfigurationError(message)
    data = as_retrieval_set(data, split)
    names = np.array(list(data.queries), dtype=object)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(names))[:max_questions])
    data = replace(data, queries={name: data.queries[name] for name in names[chosen]})
    pool = CandidatePool(data, BiEncoder(encoder), DEPTHS[-1])
    contenders, skipped = _load(pool, setups)
    if not contenders:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        message = f"no setup can be used here ({reasons})."
        raise ConfigurationError(message)
    budget_s = budget_ms / 1_000
    count = _choose_depths(contenders, pool, budget_s, time_limit_s / 2)
    rows = np.random.default_rng(seed).permutation(len(pool.questions))[:count].tolist()
    trials = [
        trial._replace(
            rankings={query: ids[:MEASURED_DEPTH] for query, ids in trial.rankings.items()}
        )
        for trial in _trials(pool, contenders, rows, _BEYOND_BUDGET * budget_s, show=show)
    ]
    reference = None if data.qrels else max(contenders, key=_Contender.typical)
    cells = measure_cells(
        pool,
        trials,
        [measure],
        rows[:20],
        qrels=None if reference is None else _silver_labels(pool, reference, rows),
        limit_s=time_limit_s / 2,
    )
    latency = np.array([cell.latency_ms for cell in cells]) / 1_000
    decision = decide(
        np.array([cell.values[measure] for cell in cells]),
        latency[:, 0],
        latency[:, 1],
        budget_s,
        quality=quality,
        labeled=reference is None,
        seed=seed,
    )
    questions = tuple(pool.questions[row] for row in rows)
    return Plan(
        Sweep(len(data.passages), questions, (measure,), tuple(cells), environment()),
        decision,
        encoder,
        budget_ms,
        quality,
        None if reference is None else str(reference.setup),
        skipped,
        perf_counter() - start,
    )


@dataclass(frozen=True)
class Decision:
    """The chosen option; option 0 is always the bi-encoder alone.

    Attributes:
        chosen: Number of the option.
        verdict: The effect of reranking.
        gain: Gain of reranking within the budget over the bi-encoder alone, cross-validated,
            with its 95% interval; None if no reranking fits the budget, or without labels.
        share: Share of bootstrap resamples of the questions in which the same option is chosen.
        questions_needed: Approximate number of questions that would show a gain of this size;
            None if it is already shown, or the gain is 0.
    """

    chosen: int
    verdict: Verdict
    gain: Difference | None
    share: float
    questions_needed: int | None = None

    @property
    def provisional(self) -> bool:
        """Whether more questions may change the decision."""
        return self.verdict == "too few questions to tell"


def cheapest_good(
    means: Scores, cost: Scores, allowed: NDArray[np.bool_], quality: float
) -> NDArray[np.intp]:
    """Return the cheapest allowed option that reaches a share of the best allowed one's quality.

    The means have shape ``(..., options)``. The first of equally cheap options is chosen.

    >>> means = np.array([0.7, 0.795, 0.8])
    >>> int(cheapest_good(means, np.array([1.0, 2, 9]), np.full(3, True), 0.99))
    1
    """
    best = np.where(allowed, means, -np.inf).max(axis=-1, keepdims=True)
    # Rounding: sums of the same values in another order may differ slightly.
    good = allowed & (means >= quality * best - 1e-12)
    chosen: NDArray[np.intp] = np.argmin(np.where(good, cost, np.inf), axis=-1)
    return chosen


def decide(
    values: Scores,
    cost: Scores,
    slow: Scores,
    budget: float,
    *,
    quality: float = 0.99,
    labeled: bool = True,
    seed: int = 0,
) -> Decision:
    """Choose an option.

    Args:
        values: Quality, one row per option and one column per question; row 0 is the
            bi-encoder alone. Without ``labeled`` it is agreement with a model.
        cost: Typical seconds of each option.
        slow: Seconds that must not exceed the budget, such as the 95th percentile.
        budget: The budget in seconds.
        quality: Share of the best quality within the budget that is good enough.
        labeled: Whether ``values`` come from labels.
        seed: Seed of folds and resampling.
    """
    fits = slow <= budget
    if not fits[1:].any():
        return Decision(0, "no time to rerank", None, 1.0)
    best = int(cheapest_good(values.mean(axis=1), cost, fits, quality))
    count = values.shape[1]
    # The share of each question in each bootstrap resample, one row per resample.
    weights = (
        np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), 1000) / count
    )
    choices = cheapest_good(weights @ values.T, cost, fits, quality)

    def share(option: int) -> float:
        return float((choices == option).mean())

    if not labeled:
        return Decision(best, "agreement only", None, share(best))
    gain, gains = _gain(values, cost, fits, quality, seed)
    if count >= MIN_QUESTIONS:
        if gain.high < 0:
            return Decision(0, "reranking hurts", gain, float((weights @ gains < 0).mean()))
        if gain.low > 0:
            return Decision(best, "reranking helps", gain, share(best))
        if gain.high < RELEVANT_GAIN:
            return Decision(0, "reranking does not help", gain, share(0))
    needed = _needed(gains, count)
    return Decision(best, "too few questions to tell", gain, share(best), needed)


def frontier(quality: Scores, cost: Scores) -> list[int]:
    """Return the options that no other beats in both quality and cost, from cheap to expensive.

    >>> frontier(np.array([0.7, 0.6, 0.8, 0.8]), np.array([1.0, 2.0, 3.0, 4.0]))
    [0, 2]
    """
    kept: list[int] = []
    for option in np.lexsort((-quality, cost)).tolist():
        if not kept or quality[option] > quality[kept[-1]]:
            kept.append(option)
    return kept


def _gain(
    values: Scores, cost: Scores, fits: NDArray[np.bool_], quality: float, seed: int
) -> tuple[Difference, Scores]:
    """Return the cross-validated gain of the best reranking, and the gain of each question."""
    reranking = fits.copy()
    reranking[0] = False
    count = values.shape[1]
    # A single question is its own training fold.
    fold = folds_of(count, min(5, count), seed) if count > 1 else np.zeros(1)
    held_out = np.zeros(count)
    for part in np.unique(fold):
        train = fold != part if count > 1 else fold == part
        chosen = int(cheapest_good(values[:, train].mean(axis=1), cost, reranking, quality))
        held_out[fold == part] = values[chosen, fold == part]
    return paired_bootstrap(values[0], held_out, seed), held_out - values[0]


def _needed(gains: Scores, count: int) -> int | None:
    mean = float(gains.mean())
    if count < 2 or mean == 0:  # noqa: PLR2004
        return None
    power = (1.96 + 0.84) ** 2  # for a test at the 5% level with a power of 80%
    needed = math.ceil(power * float(gains.var(ddof=1)) / mean**2)
    return max(needed, MIN_QUESTIONS) if needed > count or count < MIN_QUESTIONS else None


@dataclass
class _Contender:
    """A loaded setup with its scores and its approximate latency."""

    setup: Setup
    reranker: Reranker
    scores: PairScores
    pilot: dict[int, float] = field(default_factory=dict)
    """Median seconds of a request at each of two depths."""
    depth: int = 0
    """Number of candidates to score per question."""

    def typical(self, depth: int = _MIN_DEPTH) -> float:
        """Return the approximate seconds of a request, linear in the depth."""
        small, large = min(self.pilot), max(self.pilot)
        slope = max(0.0, (self.pilot[large] - self.pilot[small]) / max(1, large - small))
        return self.pilot[small] + slope * (depth - small)


def _load(pool: CandidatePool, setups: Sequence[Setup]) -> tuple[list[_Contender], dict[str, str]]:
    """Load the setups and time a few requests of each; return the reason for each skipped one."""
    contenders: list[_Contender] = []
    skipped: dict[str, str] = {}
    for setup in setups:
        try:
            reranker = setup.reranker().warm_up()
            reranker.rank(pool.question(0), pool.texts(0, range(min(8, pool.depth))))
        except RerankError as error:
            skipped[str(setup)] = str(error)
            continue
        contenders.append(_Contender(setup, reranker, PairScores(pool, setup.scoring.reranker())))
    for depth in sorted({min(depth, pool.depth) for depth in _PILOT_DEPTHS}):
        # Interleaved, so that noise affects all setups equally.
        rounds = [
            [pool.timed(row % len(pool.questions), item.reranker, depth) for item in contenders]
            for row in range(3)
        ]
        for contender, median in zip(contenders, np.median(rounds, axis=0).tolist(), strict=True):
            contender.pilot[depth] = median
    for contender in list(contenders):
        rivals = [rival for rival in contenders if rival.setup.name == contender.setup.name]
        fastest = min(rivals, key=lambda rival: rival.typical(_PILOT_DEPTHS[-1]))
        ratio = contender.typical(_PILOT_DEPTHS[-1]) / fastest.typical(_PILOT_DEPTHS[-1])
        if ratio > 2:  # noqa: PLR2004
            contenders.remove(contender)
            skipped[str(contender.setup)] = f"{ratio:.1f} times slower than {fastest.setup}"
    return contenders, skipped


def _choose_depths(
    contenders: Sequence[_Contender], pool: CandidatePool, budget_s: float, limit_s: float
) -> int:
    """Set the depth of each setup by the budget and the time limit.

    Returns the number of questions that can be scored at these depths.
    """
    count = len(pool.questions)

    def deepest(contender: _Contender, seconds: float) -> int:
        fitting = [depth for depth in _depths(pool.depth) if contender.typical(depth) <= seconds]
        return max([*fitting[-1:], min(_MIN_DEPTH, pool.depth)])

    def total() -> float:
        return count * sum(contender.typical(contender.depth) for contender in contenders)

    for contender in contenders:
        contender.depth = deepest(contender, _BEYOND_BUDGET * budget_s)
    share = limit_s / total()
    if share < 1:
        for contender in contenders:
            contender.depth = deepest(contender, contender.typical(contender.depth) * share)
    return min(count, max(MIN_QUESTIONS, int(count * limit_s / total())))


def _depths(deepest: int) -> list[int]:
    return sorted({min(depth, deepest) for depth in DEPTHS})


def _trials(
    pool: CandidatePool,
    contenders: Sequence[_Contender],
    rows: Sequence[int],
    limit_s: float,
    *,
    show: bool,
) -> Iterator[Trial]:
    """Yield the bi-encoder alone, each setup at each depth, then cascades of two models."""
    for (row,) in chunks(rows, 1, "Scoring", show=show):
        for contender in contenders:
            contender.scores.score(row, range(contender.depth))
    yield bi_encoder_trial(pool, rows)
    for contender in contenders:
        for depth in _depths(contender.depth):
            step = RerankStep(contender.setup, depth)
            yield setup_trial(pool, step, contender.scores.values, rows, contender.reranker)
    fastest: dict[str, _Contender] = {}
    for contender in sorted(contenders, key=_Contender.typical):
        fastest.setdefault(contender.setup.name, contender)
    for cheap, expensive in combinations(fastest.values(), 2):
        for depth, keep in product(_depths(cheap.depth), KEEPS):
            if keep < depth and cheap.typical(depth) + expensive.typical(keep) <= limit_s:
                yield _cascade(pool, ((cheap, depth), (expensive, keep)), rows)


def _cascade(
    pool: CandidatePool,
    steps: tuple[tuple[_Contender, int], tuple[_Contender, int]],
    rows: Sequence[int],
) -> Trial:
    """Return a fast model over many candidates, then a slower one over the best of them."""
    (cheap, depth), (expensive, keep) = steps
    rankings = {}
    for row in rows:
        order = by_score(cheap.scores.values[row], depth)
        expensive.scores.score(row, order[:keep])  # those beyond its own depth
        best = order[by_score(expensive.scores.values[row, order[:keep]], keep)]
        rankings[pool.questions[row]] = pool.ids(row, np.concatenate([best, order[keep:]]))
    first, second = cheap.setup.scoring, expensive.setup.scoring
    reranker = Reranker(Cascade([(first.reranker(), keep), second.reranker()]))
    return Trial((RerankStep(first, depth), RerankStep(second, keep)), rankings, reranker)


def _silver_labels(
    pool: CandidatePool, reference: _Contender, rows: Sequence[int]
) -> dict[str, dict[str, int]]:
    """Return the top ten of a model as judgments, graded 10 to 1."""
    labels = {}
    for row in rows:
        order = by_score(reference.scores.values[row], reference.depth)
        best = enumerate(pool.ids(row, order[:_SILVER_DEPTH]))
        labels[pool.questions[row]] = {name: _SILVER_DEPTH - rank for rank, name in best}
    return labels
