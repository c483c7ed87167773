"""How rankings are made: of whole documents or windows, in what time, from which scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from rerank_plugins.core.batching.jobs import Priority
from rerank_plugins.core.checks import (
    check_choice,
    check_count,
    check_deadline,
    check_number,
    check_prompt,
    check_top_n,
)
from rerank_plugins.errors import ConfigurationError

if TYPE_CHECKING:
    from rerank_plugins.core.calibration import Calibrator

Activation = Literal["sigmoid", "none"]
Overload = Literal["wait", "raise"]
OnError = Literal["raise", "passthrough"]
Fusion = Literal["none", "rrf", "weighted"]
LongDocuments = Literal["truncate", "windows"]


@dataclass(frozen=True)
class RerankConfig:
    """How a ranking is made from scores.

    Attributes:
        top_n: How many documents to return; None returns all.
        score_threshold: Documents below this ``relevance_score`` are left out; a document
            at the threshold stays. None keeps all.
        activation: ``"sigmoid"`` maps logits to 0..1; ``"none"`` leaves them as they are.
        calibrator: Maps raw scores to probabilities, instead of the activation.
        fusion: How the first stage has a say: ``"none"``, ``"rrf"`` or ``"weighted"``.
        fusion_weight: The model's share in a fusion; the rest is the first stage's.
        deadline_ms: Milliseconds after which a ranking is answered with what is scored; None
            and infinity wait for all.
        on_error: If scoring fails, ``"raise"``, or ``"passthrough"`` the input's order.
    """

    top_n: int | None = None
    score_threshold: float | None = None
    activation: Activation = "sigmoid"
    calibrator: Calibrator | None = None
    fusion: Fusion = "none"
    fusion_weight: float = 0.5
    deadline_ms: float | None = None
    on_error: OnError = "raise"

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigurationError: If one is out of range.
        """
        check_top_n(self.top_n)
        check_number("score_threshold", self.score_threshold, "to keep all")
        check_choice("activation", self.activation, get_args(Activation))
        check_choice("fusion", self.fusion, get_args(Fusion))
        check_number("fusion_weight", self.fusion_weight, low=0, high=1)
        check_deadline(self.deadline_ms)
        check_choice("on_error", self.on_error, get_args(OnError))
        if self.calibrator is not None and self.fusion != "none":
            message = (
                f"fusion is {self.fusion!r} and there is a calibrator, but a fused score is no "
                "score of the model, and has no probability. Leave one of them out; "
                "calibrator(raw_scores) gives the probabilities beside a fusion."
            )
            raise ConfigurationError(message)


@dataclass(frozen=True)
class ScoringConfig:
    """How a model scores a request.

    Attributes:
        max_length: Most tokens a pair may have; None is the model's reach.
        long_documents: ``"truncate"`` reads the beginning of a document beyond the reach,
            ``"windows"`` all of it, in windows.
        window_overlap: Tokens that a window shares with the one before it.
        max_windows: Most windows of a document; of a longer one so many are read that lie
            evenly from its first to its last. None reads all.
        best_windows: A document's score is the mean of its best so many windows; 1 is the
            best one alone (MaxP, Dai and Callan, 2019).
        query_prompt: Put before the query; None is the model's own.
        document_prompt: Put before every document and window; None is the model's own.
        priority: ``"interactive"``, or ``"bulk"`` to stand behind the former.
        overload: What to do while the engine's queue is full: ``"wait"``, or ``"raise"``.
    """

    max_length: int | None = 512
    long_documents: LongDocuments = "truncate"
    window_overlap: int = 64
    max_windows: int | None = 32
    best_windows: int = 1
    query_prompt: str | None = None
    document_prompt: str | None = None
    priority: Priority = "interactive"
    overload: Overload = "wait"

    def __post_init__(self) -> None:
        """Check every field; ``max_length`` is checked with the model's configuration.

        Raises:
            ConfigurationError: If one is out of range.
        """
        check_choice("long_documents", self.long_documents, get_args(LongDocuments))
        check_count("window_overlap", self.window_overlap, least=0)
        check_count("max_windows", self.max_windows, "for all")
        check_count("best_windows", self.best_windows)
        check_prompt("query_prompt", self.query_prompt)
        check_prompt("document_prompt", self.document_prompt)
        check_choice("priority", self.priority, get_args(Priority))
        check_choice("overload", self.overload, get_args(Overload))
