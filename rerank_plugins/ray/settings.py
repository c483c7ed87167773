"""Settings of the Ray Serve application."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Annotated, Any, get_args

from pydantic import Field, ValidationInfo, field_validator, model_validator
from typing_extensions import Self

from rerank_plugins.errors import ConfigurationError
from rerank_plugins.serving.settings import Limit, Seconds, ServerSettings


class RayServeSettings(ServerSettings):
    """Settings of the deployments and, inherited, of the server in each replica.

    They are the ``args`` of a Serve configuration file. A change of ``args`` restarts the
    replicas one after the other. A change of a server setting in the ``user_config`` of the
    deployment ``Reranker`` is applied without a restart.
    """

    replicas: Limit = Field(
        default=1,
        description=(
            "Number of scoring replicas with one engine each; the minimum with autoscaling."
        ),
    )
    max_replicas: Annotated[int | None, Field(ge=1)] = Field(
        default=None,
        description="Maximum number of replicas; autoscaling is on if it exceeds replicas.",
    )
    target_ongoing_requests: float = Field(
        default=8.0,
        gt=0,
        description="Running and queued requests per replica that autoscaling targets.",
    )
    upscale_delay_s: float = Field(
        default=10.0, ge=0, description="Seconds above the target before replicas are added."
    )
    downscale_delay_s: float = Field(
        default=300.0, ge=0, description="Seconds below the target before replicas are removed."
    )
    num_cpus: float = Field(
        default=1.0, ge=0, description="CPU cores per replica, and its number of torch threads."
    )
    num_gpus: float = Field(
        default=0.0, ge=0, description="GPUs per replica; a fraction shares a GPU between replicas."
    )
    ingress_replicas: Limit = Field(
        default=2, description="Number of processes that receive requests and retry failed ones."
    )
    retries: int = Field(default=3, ge=0, le=20, description="Maximum retries per request.")
    request_timeout_s: Seconds = Field(
        default=120.0, description="Timeout of a request, including all retries."
    )
    require_token: bool = Field(
        default=False,
        description="Whether a replica fails to start without a bearer token in its environment.",
    )
    max_ongoing_requests: Limit = Field(
        default=64, description="Maximum concurrent requests per replica; they share batches."
    )
    health_check_period_s: Seconds = Field(
        default=10.0, description="Seconds between two health checks; each scores a pair."
    )
    health_check_timeout_s: Seconds = Field(
        default=30.0, description="Timeout of a health check; the replica is then replaced."
    )
    drain_s: Seconds = Field(
        default=30.0,
        description="Seconds for requests in flight to finish when a replica is stopped.",
    )

    @model_validator(mode="before")
    @classmethod
    def _parse_strings(cls, values: Any) -> Any:  # noqa: ANN401  (not validated yet)
        """Parse numbers and the like: ``serve run`` passes every argument as a string."""
        if not isinstance(values, dict):
            return values
        return {name: _parse(cls, name, value) for name, value in values.items()}

    @field_validator("model", "embedding_model")
    @classmethod
    def _validate_name(cls, value: object, info: ValidationInfo) -> object:
        """Replicas load their models by name."""
        if isinstance(value, str) or (value is None and info.field_name == "embedding_model"):
            return value
        message = (
            f"{info.field_name} is {value!r}; on Ray it must be a name, or a folder that all "
            "nodes see."
        )
        raise ConfigurationError(message)

    @model_validator(mode="after")
    def _validate_replicas(self) -> Self:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            message = (
                f"max_replicas is {self.max_replicas}; it must be at least replicas, "
                f"which is {self.replicas}."
            )
            raise ConfigurationError(message)
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


def _parse(cls: type[RayServeSettings], name: str, value: object) -> object:
    """Return the JSON value of a string, unless the field of that name accepts strings."""
    field = cls.model_fields.get(name)
    if not isinstance(value, str) or field is None or field.annotation in (str, Any):
        return value
    if str not in get_args(field.annotation):
        with suppress(ValueError):  # "rrf" is a value as it is
            return json.loads(value)
    return value
