"""From tasks to the unique text pairs that a model scores, and back to documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rerank_plugins.core.ordering import check_scores
from rerank_plugins.core.scored import NOT_SCORED, Scored, Task
from rerank_plugins.core.types import RankingStats, TextPair, Window
from rerank_plugins.core.windows import thin_out

if TYPE_CHECKING:
    from collections.abc import Callable

    from rerank_plugins.core.batching.computed import Computed
    from rerank_plugins.core.policy import ScoringConfig
    from rerank_plugins.core.protocols import Role
    from rerank_plugins.core.types import ModelIdentity, ScoreScale

    Cut = Callable[[str, list[str]], list[list[Window]]]
    """Windows of each document, given the query with its prompt and the documents."""


class PairedTask:
    """A task as text pairs: one a window, identical ones merged.

    Attributes:
        pairs: The unique pairs, in the order of the documents.
    """

    def __init__(
        self, task: Task, config: ScoringConfig, prompts: Mapping[Role, str], cut: Cut | None
    ) -> None:
        """Put prompts before the texts and cut long documents.

        Args:
            task: What to score.
            config: How.
            prompts: What goes before queries and documents.
            cut: How to find windows; None leaves documents whole.
        """
        self._config = config
        query = prompts.get("query", "") + task.query
        whole = [[Window(0, len(text))] for text in task.texts]
        found = whole if cut is None else cut(query, task.texts)
        self._windows = [thin_out(windows, config.max_windows) for windows in found]
        self._thinned = np.array(
            [len(kept) < len(all_) for kept, all_ in zip(self._windows, found, strict=True)],
            dtype=np.bool_,
        )
        before = prompts.get("document", "")
        parts = [
            before + (text if len(windows) == 1 else text[window.start : window.end])
            for text, windows in zip(task.texts, self._windows, strict=True)
            for window in windows
        ]
        position = {part: number for number, part in enumerate(dict.fromkeys(parts))}
        self.pairs = [TextPair(query, part) for part in position]
        self._pair_of = np.array([position[part] for part in parts], dtype=np.intp)

    def scored(self, computed: Computed, model: ModelIdentity, scale: ScoreScale) -> Scored:
        """Return the documents' scores, given those of :attr:`pairs`.

        A document counts as scored once all of its windows are.

        Raises:
            InvalidScoresError: If a score is missing or not finite.
        """
        done = computed.done
        check_scores(computed.values[done], int(done.sum()))
        values = computed.values[self._pair_of]
        counts = np.array([len(windows) for windows in self._windows], dtype=np.intp)
        starts = np.cumsum(counts) - counts
        complete = np.logical_and.reduceat(done[self._pair_of], starts)
        scores = np.where(complete, values[starts], np.float32(np.nan))
        windows: list[Window | None] = [None] * len(counts)
        for document in np.flatnonzero((counts > 1) & complete):
            own = values[starts[document] : starts[document] + counts[document]]
            best = np.sort(own)[::-1][: self._config.best_windows]
            scores[document] = best.mean(dtype=np.float64)
            windows[document] = self._windows[document][int(own.argmax())]
        cut = np.logical_or.reduceat(computed.truncated[self._pair_of], starts) | self._thinned
        return Scored(
            scores=scores,
            stage=np.where(complete, 0, NOT_SCORED),
            truncated=cut,
            windows=windows,
            model=model,
            scale=scale,
            stats=RankingStats(
                documents=len(counts),
                scored=int(complete.sum()),
                pairs=len(self.pairs),
                tokens=int(computed.tokens.sum()),
                truncated=int(cut.sum()),
                batches=computed.batches,
                cache_hits=computed.cache_hits,
                disk_hits=computed.disk_hits,
                queue_s=computed.queue_s,
                compute_s=computed.compute_s,
            ),
            status="complete" if complete.all() else "partial",
            scoring=self._config,
        )


def together(
    tasks: Sequence[PairedTask], *, in_turns: bool
) -> tuple[list[TextPair], list[list[int]]]:
    """Return the pairs of all tasks as one list.

    Args:
        tasks: Whose pairs.
        in_turns: Whether the first pair of each goes first, so that all have their share of a
            deadline. Otherwise a task's pairs stand together, and its query is tokenised once.

    Returns:
        The pairs, and for each task where its own are among them.
    """
    order = [(turn, number) for number, task in enumerate(tasks) for turn in range(len(task.pairs))]
    if in_turns:
        order.sort()
    places: list[list[int]] = [[] for _ in tasks]
    for place, (_, number) in enumerate(order):
        places[number].append(place)
    return [tasks[number].pairs[turn] for turn, number in order], places
