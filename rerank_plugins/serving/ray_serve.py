"""The rerank API as a Ray Serve application (extra ``ray``).

``serve run rerank_plugins.serving.ray_serve:build replicas=2``, or a configuration file with
``import_path: rerank_plugins.serving.ray_serve:build`` and :class:`RayServeSettings` as ``args``.
"""
# No `from __future__ import annotations`: Serve reads the builder's annotation as a class.

from functools import partial
from typing import Any, Final

from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from rerank_plugins.serving.asgi_call import Answer, Call
from rerank_plugins.serving.intake import Intake
from rerank_plugins.serving.ray_ingress import Forward, guarded
from rerank_plugins.serving.ray_replica import RerankReplica
from rerank_plugins.serving.ray_settings import RayServeSettings
from rerank_plugins.serving.settings import ServerSettings

SCORERS: Final = "Reranker"
"""Name of the deployment whose replicas have the models."""

INGRESS: Final = "Ingress"
"""Name of the deployment that takes requests in."""


class Ingress:
    """Takes HTTP requests in; has no model."""

    def __init__(self, scorers: DeploymentHandle[Any], args: RayServeSettings) -> None:
        """Ask ``scorers`` as ``args`` say."""
        self._scorers = scorers
        self._args = args

    def __serve_build_asgi_app__(self) -> ASGIApp:  # Serve's name for it
        """Return the application that Serve's proxy calls."""
        args = self._args
        forward = Forward(self._ask, retries=args.retries, timeout_s=args.request_timeout_s)
        return guarded(forward, partial(Intake, settings=ServerSettings(**args.server())))

    async def _ask(self, call: Call) -> Answer:
        answer: Answer = await self._scorers.answer.remote(call)
        return answer


def build(args: RayServeSettings) -> Application:
    """Return the application for ``serve run``, ``serve deploy`` or ``ray.serve.run``.

    Args:
        args: What to serve and how; a configuration file gives it as ``args``.
    """
    ServerSettings(**args.server())  # refuses what cannot work before anything is started
    shared: dict[str, Any] = {
        "graceful_shutdown_timeout_s": args.drain_s,
        "health_check_period_s": args.health_check_period_s,
        "health_check_timeout_s": args.health_check_timeout_s,
    }
    scorers = serve.deployment(
        name=SCORERS,
        user_config={},  # Serve calls `reconfigure` only if there is one
        max_ongoing_requests=args.max_ongoing_requests,
        ray_actor_options={"num_cpus": args.num_cpus, "num_gpus": args.num_gpus},
        **args.scaling(),
        **shared,
    )(RerankReplica)
    ingress = serve.deployment(
        name=INGRESS,
        num_replicas=args.ingress_replicas,
        max_ongoing_requests=1_000,
        # It waits more than it works, and must fit beside replicas that have all the cores.
        ray_actor_options={"num_cpus": 0},
        **shared,
    )(serve.ingress(None)(Ingress))
    return ingress.bind(scorers.bind(args.server(), require_token=args.require_token), args)


app: Final = build(RayServeSettings())
"""The application with its defaults, for ``serve build rerank_plugins.serving.ray_serve:app``."""
