"""Settings of the Ray Serve application."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, model_validator

from rerank_plugins.serving.settings import Seconds, ServerSettings

SelfT = TypeVar("SelfT", bound="RayServeSettings")


class RayServeSettings(ServerSettings):
    """Settings of the deployments and, inherited, of the server in each replica.

    They are the ``args`` of a Serve configuration file. A change of ``args`` restarts the
    replicas one after the other. A change of a server setting in the ``user_config`` of the
    deployment ``Reranker`` is applied without a restart.

    Attributes:
        replicas: Number of scoring replicas with one engine each; the minimum with autoscaling.
        max_replicas: Maximum number of replicas; autoscaling is on if it exceeds ``replicas``.
        target_ongoing_requests: Running and queued requests per replica that autoscaling targets.
        upscale_delay_s: Seconds above the target before replicas are added.
        downscale_delay_s: Seconds below the target before replicas are removed.
        num_cpus: CPU cores per replica, and its number of torch threads.
        num_gpus: GPUs per replica; a fraction shares a GPU between replicas.
        ingress_replicas: Number of processes that receive requests and retry failed ones.
        retries: Maximum retries per request.
        request_timeout_s: Timeout of a request, including all retries.
        require_token: Whether a replica fails to start without a bearer token in its
            environment.
        max_ongoing_requests: Maximum concurrent requests per replica; they share batches.
        health_check_period_s: Seconds between two health checks; each scores a pair.
        health_check_timeout_s: Timeout of a health check; the replica is then replaced.
        drain_s: Seconds for requests in flight to finish when a replica is stopped.
    """

    model_config = ConfigDict(strict=False)  # `serve run` passes every argument as a string

    replicas: Annotated[int, Field(ge=1)] = 1
    max_replicas: Annotated[int | None, Field(ge=1)] = None
    target_ongoing_requests: Annotated[float, Field(gt=0)] = 8.0
    upscale_delay_s: Annotated[float, Field(ge=0)] = 10.0
    downscale_delay_s: Annotated[float, Field(ge=0)] = 300.0
    num_cpus: Annotated[float, Field(ge=0)] = 1.0
    num_gpus: Annotated[float, Field(ge=0)] = 0.0
    ingress_replicas: Annotated[int, Field(ge=1)] = 2
    retries: Annotated[int, Field(ge=0, le=20)] = 3
    request_timeout_s: Seconds = 120.0
    require_token: bool = False
    max_ongoing_requests: Annotated[int, Field(ge=1)] = 64
    health_check_period_s: Seconds = 10.0
    health_check_timeout_s: Seconds = 30.0
    drain_s: Seconds = 30.0

    @model_validator(mode="after")
    def _validate_replicas(self: SelfT) -> SelfT:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            message = (
                f"max_replicas is {self.max_replicas}; it must be at least replicas, "
                f"which is {self.replicas}"
            )
            raise ValueError(message)
        return self

    def server(self) -> dict[str, Any]:
        """Return the fields of :class:`ServerSettings`."""
        return {name: getattr(self, name) for name in ServerSettings.model_fields}

    def scaling(self) -> dict[str, Any]:
        """Return the options of a Serve deployment that set its number of replicas."""
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
