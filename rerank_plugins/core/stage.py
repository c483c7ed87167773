"""A stage of a cascade: what scores, and who goes on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields
from typing import Any

from rerank_plugins.core.bi_encoder import BiEncoder
from rerank_plugins.core.bi_encoder_scorer import BiEncoderScorer
from rerank_plugins.core.checks import check_count, check_number
from rerank_plugins.core.policy import RerankConfig
from rerank_plugins.core.reranker import Reranker
from rerank_plugins.core.scored import Scorer
from rerank_plugins.errors import ConfigurationError


@dataclass(frozen=True)
class Stage:
    """One ranker of a cascade.

    Attributes:
        ranker: A :class:`~rerank_plugins.Reranker`, a :class:`~rerank_plugins.BiEncoder` or
            any :class:`~rerank_plugins.core.scored.Scorer`.
        keep: How many documents go on to the next stage; None lets all go on.
        share: Part of the time left at its start that the stage may use, above 0 and up to 1,
            where a request has a deadline; None is all of it.
        margin: The cascade ends here for a query whose best document leads the second by at
            least this in the stage's raw score; None never does. See
            :func:`~rerank_plugins.evaluation.margins.fit_margin`.
        scorer: What scores.
    """

    ranker: Reranker | BiEncoder | Scorer
    keep: int | None = None
    share: float | None = None
    margin: float | None = None
    scorer: Scorer = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigurationError: If one is out of range, or the ranker has settings that no
                stage can keep to.
        """
        check_count("keep", self.keep, "for all")
        check_number("share", self.share, "for all that is left", low=0, high=1)
        check_number("margin", self.margin, "for no early stop", low=0)
        if self.share == 0:
            message = "share is 0; a stage needs time: give a number above 0 and up to 1, or None."
            raise ConfigurationError(message)
        object.__setattr__(self, "scorer", _scorer(self.ranker))

    def until(self, deadline: float | None) -> float | None:
        """Return when the stage has to stop if it starts now.

        Args:
            deadline: The request's, on the clock of :func:`time.perf_counter`.
        """
        if deadline is None or self.share is None:
            return deadline
        now = time.perf_counter()
        return min(deadline, now + self.share * (deadline - now))


def as_stage(given: Any) -> Stage:  # noqa: ANN401  (not yet checked)
    """Return a stage for a ranker, or for a tuple of what :class:`Stage` takes.

    Raises:
        ConfigurationError: If it is none of these.
    """
    if isinstance(given, Stage):
        return given
    if not isinstance(given, tuple):
        return Stage(given)
    most = sum(one.init for one in fields(Stage))
    if not 1 <= len(given) <= most:
        message = f"a stage has {len(given)} elements; give (ranker, keep, share, margin) or less."
        raise ConfigurationError(message)
    return Stage(*given)


def _scorer(ranker: object) -> Scorer:
    if isinstance(ranker, BiEncoder):
        return BiEncoderScorer(ranker)
    if isinstance(ranker, Reranker):
        _refuse_policy(ranker)
        return ranker.scorer
    if isinstance(ranker, Scorer):
        return ranker
    message = (
        f"the ranker of a stage is {type(ranker).__name__}; give a Reranker, a BiEncoder or a "
        "Scorer. A model name or a backend goes into one of them, as in Reranker('mini')."
    )
    raise ConfigurationError(message)


def _refuse_policy(reranker: Reranker) -> None:
    """Refuse what a stage would pass over in silence.

    Raises:
        ConfigurationError: If the reranker makes more of its scores than an order.
    """
    usual = RerankConfig()
    given = {one.name: getattr(reranker.config, one.name) for one in fields(RerankConfig)}
    odd = [name for name, value in given.items() if value != getattr(usual, name)]
    if reranker._pipeline.duplicates is not None:  # noqa: SLF001  (only a stage asks)
        odd.append("drop_similar")
    if odd:
        message = (
            f"the Reranker of a stage sets {', '.join(odd)}; a stage uses its raw scores alone. "
            "Set that on the Reranker around the cascade: Reranker(Cascade(...), ...); how many "
            "documents go on is the stage's keep, its time the stage's share."
        )
        raise ConfigurationError(message)
