"""What a Ray Serve application is made of: typed, so that a wrong key is refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rerank_plugins.config import MINI, Activation, Dtype, Fusion, LongDocuments, Optimize
from rerank_plugins.engine.engine import MAX_QUEUE_TOKENS

SelfT = TypeVar("SelfT", bound="RayServeSettings")

_SERVE: Final = frozenset(
    (
        "replicas",
        "max_replicas",
        "target_ongoing_requests",
        "upscale_delay_s",
        "downscale_delay_s",
        "num_cpus",
        "num_gpus",
        "ingress_replicas",
        "retries",
        "request_timeout_s",
        "require_token",
        "max_ongoing_requests",
        "health_check_period_s",
        "health_check_timeout_s",
        "drain_s",
    )
)
"""Settings of the deployments; all others are the server's, and each replica gets them."""

_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class RayServeSettings(BaseModel):
    """Arguments of the application: ``args`` of a Serve configuration file.

    Those from ``model`` to ``body_timeout_s`` are :class:`ServerSettings`' own. A change of them
    here restarts the replicas one after the other; in the ``user_config`` of the deployment
    ``Reranker`` it reaches them as they run.

    Attributes:
        replicas: Scoring replicas, each with an engine of its own; the least, when scaled.
        max_replicas: Most of them; more than ``replicas`` turns autoscaling on.
        target_ongoing_requests: Requests running or queued a replica that scaling aims at.
        upscale_delay_s: Seconds that the load must stay above it before replicas are added.
        downscale_delay_s: Seconds that it must stay below before replicas are removed.
        num_cpus: CPU cores a replica; torch uses so many threads.
        num_gpus: GPUs a replica; a fraction shares one between replicas.
        ingress_replicas: Processes that take requests in and send them again if a replica dies.
        retries: How often a request is sent again at most.
        request_timeout_s: Seconds for a request, all attempts included.
        require_token: Whether a replica refuses to start without a bearer token in its
            environment.
        max_ongoing_requests: Requests at once in a replica; they share its batches.
        health_check_period_s: Seconds between two health checks, each scoring a pair.
        health_check_timeout_s: Seconds after which a replica that does not score is replaced.
        drain_s: Seconds that requests in flight have to end when a replica is stopped.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = MINI
    embedding_model: str | None = MINI
    backend: str = "auto"
    device: str | None = None
    dtype: Dtype = "auto"
    optimize: Optimize = "none"
    max_length: int | None = 512
    revision: str | None = None
    cache_folder: str | None = None
    local_files_only: bool = False
    trust_remote_code: bool = False
    idle_unload_s: float | None = None
    cache_mb: float = 0
    cache_entries: int | None = None
    cache_dir: str | None = None
    cache_dir_mb: float = 1024
    score_threshold: float | None = None
    activation: Activation = "sigmoid"
    calibrator: str | None = None
    fusion: Fusion = "none"
    fusion_weight: float = 0.5
    drop_similar: float | None = None
    similarity_model: str = MINI
    long_documents: LongDocuments = "truncate"
    window_overlap: int = 64
    max_windows: int | None = 32
    best_windows: int = 1
    query_prompt: str | None = None
    document_prompt: str | None = None
    deadline_ms: float | None = None
    max_documents: int = 1_000
    max_characters: int = 2_000_000
    max_body_bytes: int = 8 * 2**20
    max_queue_tokens: int = MAX_QUEUE_TOKENS
    body_timeout_s: float = 10.0

    replicas: Annotated[int, Field(ge=1)] = 1
    max_replicas: Annotated[int | None, Field(ge=1)] = None
    target_ongoing_requests: Annotated[float, Field(gt=0)] = 8.0
    upscale_delay_s: Annotated[float, Field(ge=0)] = 10.0
    downscale_delay_s: Annotated[float, Field(ge=0)] = 300.0
    num_cpus: Annotated[float, Field(ge=0)] = 1.0
    num_gpus: Annotated[float, Field(ge=0)] = 0.0
    ingress_replicas: Annotated[int, Field(ge=1)] = 2
    retries: Annotated[int, Field(ge=0, le=20)] = 3
    request_timeout_s: _Seconds = 120.0
    require_token: bool = False
    max_ongoing_requests: Annotated[int, Field(ge=1)] = 64
    health_check_period_s: _Seconds = 10.0
    health_check_timeout_s: _Seconds = 30.0
    drain_s: _Seconds = 30.0

    @model_validator(mode="after")
    def _validate_range(self: SelfT) -> SelfT:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            message = f"max_replicas is {self.max_replicas}, less than replicas={self.replicas}"
            raise ValueError(message)
        return self

    def server(self) -> dict[str, Any]:
        """Return the part that is :class:`ServerSettings`."""
        return self.model_dump(exclude=set(_SERVE))

    def scaling(self) -> dict[str, Any]:
        """Return how many replicas there are, in the words of a Serve deployment."""
        if self.max_replicas is None or self.max_replicas == self.replicas:
            return {"num_replicas": self.replicas}
        return {
            "autoscaling_config": {
                "min_replicas": self.replicas,
                "max_replicas": self.max_replicas,
                "target_ongoing_requests": self.target_ongoing_requests,
                "upscale_delay_s": self.upscale_delay_s,
                "downscale_delay_s": self.downscale_delay_s,
            }
        }
