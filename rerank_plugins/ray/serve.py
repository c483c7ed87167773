"""Ray Serve application (extra ``ray``): scoring replicas behind an ingress that retries.

``serve run rerank_plugins.ray:build_app replicas=2``, or a configuration file with
``import_path: rerank_plugins.ray:build_app`` and the fields of :class:`RayServeSettings` as
``args``.
"""

# No `from __future__ import annotations`: Serve reads the annotation of `build_app` as a class.

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

from ray import exceptions as ray_errors
from ray import serve
from ray.serve import Application
from ray.serve import exceptions as serve_errors
from ray.serve.handle import DeploymentHandle
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from rerank_plugins.ray.replica import HttpRequest, HttpResponse, RerankReplica
from rerank_plugins.ray.settings import RayServeSettings
from rerank_plugins.serving.errors import APIError, error_response
from rerank_plugins.serving.logging import RequestRecord, get_record, start_record
from rerank_plugins.serving.middleware import BodyLimits

logger: Final = logging.getLogger(__name__)

REPLICA_DEPLOYMENT: Final = "Reranker"
INGRESS_DEPLOYMENT: Final = "Ingress"

SendToReplica = Callable[[HttpRequest], Awaitable[HttpResponse]]

_LOST_REPLICA_ERRORS: Final = (
    ray_errors.RayActorError,  # the replica died or is unreachable
    ray_errors.WorkerCrashedError,
    ray_errors.NodeDiedError,
    ray_errors.ObjectLostError,  # the node died before the response was read
)
_DEADLINE_HEADER: Final = b"x-deadline-ms"
_ID_HEADER: Final = b"x-request-id"
_RETRY_AFTER: Final = {"Retry-After": "1"}


def build_app(args: RayServeSettings) -> Application:
    """Return the application for ``serve run``, ``serve deploy`` or ``ray.serve.run``.

    Args:
        args: Settings; the ``args`` of a Serve configuration file.
    """
    shared: dict[str, Any] = {
        "graceful_shutdown_timeout_s": args.drain_s,
        "health_check_period_s": args.health_check_period_s,
        "health_check_timeout_s": args.health_check_timeout_s,
    }
    replicas = serve.deployment(
        name=REPLICA_DEPLOYMENT,
        user_config={},  # without it, Serve does not call `reconfigure`
        max_ongoing_requests=args.max_ongoing_requests,
        ray_actor_options={"num_cpus": args.num_cpus, "num_gpus": args.num_gpus},
        **args.scaling(),
        **shared,
    )(RerankReplica)
    ingress = serve.deployment(
        name=INGRESS_DEPLOYMENT,
        num_replicas=args.ingress_replicas,
        max_ongoing_requests=1_000,
        # The ingress mostly waits, and must also start where replicas use all cores.
        ray_actor_options={"num_cpus": 0},
        **shared,
    )(serve.ingress(None)(Ingress))
    return ingress.bind(replicas.bind(args.server(), require_token=args.require_token), args)


class Ingress:
    """Receives HTTP requests and sends them to replicas; has no model."""

    def __init__(self, replicas: DeploymentHandle[Any], args: RayServeSettings) -> None:
        """Create the ingress of a deployment of replicas."""
        self._replicas = replicas
        self._args = args

    def __serve_build_asgi_app__(self) -> ASGIApp:  # the name is part of Serve's interface
        """Return the application that the proxy of Serve calls."""
        return build_ingress_app(self._send, self._args)

    async def _send(self, request: HttpRequest) -> HttpResponse:
        response: HttpResponse = await self._replicas.handle.remote(request)
        return response


def build_ingress_app(send_to_replica: SendToReplica, args: RayServeSettings) -> ASGIApp:
    """Return the ASGI application of the ingress, with the body limits of the server."""
    limited = BodyLimits(Forwarder(send_to_replica, args), args)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            start_record(scope)
            await limited(scope, receive, send)
        elif scope["type"] == "lifespan":
            for event in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{event}.complete"})

    return app


class Forwarder:
    """ASGI application that sends each request to a replica, and retries if the replica is lost.

    It runs behind :class:`BodyLimits`, which reads the body.
    """

    def __init__(self, send_to_replica: SendToReplica, args: RayServeSettings) -> None:
        """Set how requests are sent, and the maximum of retries and seconds per request."""
        self._send_to_replica = send_to_replica
        self._retries = args.retries
        self._timeout_s = args.request_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response of a replica, or an error in the shape of the API."""
        body = (await receive()).get("body", b"")
        attempts = self._send_with_retries(scope, body, get_record(scope))
        try:
            answer = await asyncio.wait_for(attempts, self._timeout_s)
        except asyncio.TimeoutError:  # not the builtin before Python 3.11
            message = f"no replica answered within {self._timeout_s:g} s."
            response = error_response(scope, APIError(503, message, _RETRY_AFTER))
        except APIError as error:
            response = error_response(scope, error)
        else:
            response = Response(answer.body, answer.status)
            # The proxy of Serve adds the request id itself.
            response.raw_headers = [
                header for header in answer.headers if header[0].lower() != _ID_HEADER
            ]
        await response(scope, receive, send)

    async def _send_with_retries(
        self, scope: Scope, body: bytes, record: RequestRecord
    ) -> HttpResponse:
        if scope["path"] == "/metrics":
            message = (
                "each replica has its own counters: read the metrics of the nodes (`ray metrics "
                "launch-prometheus`), where rerank_engine_* have the replica as a tag."
            )
            raise APIError(404, message)
        for attempt in range(self._retries + 1):
            try:
                return await self._send_to_replica(_forwarded_request(scope, body, record))
            except serve_errors.BackPressureError as error:
                message = "too many requests wait for a replica."
                raise APIError(429, message, _RETRY_AFTER) from error
            except serve_errors.DeploymentUnavailableError as error:
                message = "the replicas cannot be started; see `serve status`."
                raise APIError(503, message, _RETRY_AFTER) from error
            except ray_errors.RayError as error:
                if not is_replica_lost(error):
                    raise
                fields = {"request_id": record.request_id, "attempt": attempt + 1}
                logger.warning("a replica was lost", extra={"fields": fields})
            # Exponential backoff with full jitter, until the router has removed the replica.
            delay_s = random.uniform(0, 0.05 * 2**attempt)  # noqa: S311
            await asyncio.sleep(delay_s)
        message = f"{self._retries + 1} replicas died while they processed this request."
        raise APIError(503, message, _RETRY_AFTER)


def is_replica_lost(error: BaseException) -> bool:
    """Return whether the replica failed rather than the request, so that a retry can succeed."""
    cause = error.cause if isinstance(error, ray_errors.RayTaskError) else error
    return isinstance(error, _LOST_REPLICA_ERRORS) or isinstance(cause, _LOST_REPLICA_ERRORS)


def _forwarded_request(scope: Scope, body: bytes, record: RequestRecord) -> HttpRequest:
    """Return the request with its id and with the time that is left of its deadline."""
    headers = [(_ID_HEADER, record.request_id.encode("ascii"))]
    for name, value in scope["headers"]:
        if name == _DEADLINE_HEADER:
            headers.append((name, _remaining_ms(value, record)))
        elif name != _ID_HEADER:
            headers.append((name, value))
    return HttpRequest(scope["method"], scope["path"], scope["query_string"], headers, body)


def _remaining_ms(value: bytes, record: RequestRecord) -> bytes:
    try:
        deadline_ms = float(value)
    except ValueError:
        return value  # the replica answers with the validation error
    remaining_ms = deadline_ms - record.seconds * 1000
    if deadline_ms > 0 >= remaining_ms:
        raise APIError(504, f"not done within the {deadline_ms:g} ms of X-Deadline-Ms.")
    return f"{remaining_ms:.3f}".encode("ascii") if deadline_ms > 0 else value


app: Final = build_app(RayServeSettings())
"""The application with default settings, for ``serve build rerank_plugins.ray.serve:app``."""
