"""The rerank API as a Ray Serve application (extra ``ray``).

``serve run rerank_plugins.ray.serve:build replicas=2``, or a configuration file with
``import_path: rerank_plugins.ray.serve:build`` and :class:`RayServeSettings` as ``args``.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from ray import exceptions as ray_errors
from ray import serve
from ray.serve import Application
from ray.serve import exceptions as serve_errors
from ray.serve.handle import DeploymentHandle
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from rerank_plugins.ray.asgi import Answer, Call
from rerank_plugins.ray.replica import RerankReplica
from rerank_plugins.ray.settings import RayServeSettings
from rerank_plugins.serving.errors import Refusal, failure
from rerank_plugins.serving.logging import Record, new_record, record_of
from rerank_plugins.serving.middleware import Intake
from rerank_plugins.serving.settings import ServerSettings

logger: Final = logging.getLogger(__name__)

Ask = Callable[[Call], Awaitable[Answer]]

_LOST: Final = (
    ray_errors.RayActorError,  # the replica died, or cannot be reached
    ray_errors.WorkerCrashedError,
    ray_errors.NodeDiedError,
    ray_errors.ObjectLostError,  # it answered, and its node died before the answer was read
)
_FIRST_WAIT_S: Final = 0.05
_DEADLINE: Final = b"x-deadline-ms"
_IDENTITY: Final = b"x-request-id"
_RETRY: Final = {"Retry-After": "1"}
_METRICS: Final = (
    "each replica has counters of its own: read the metrics of the nodes (`ray metrics "
    "launch-prometheus`), where rerank_engine_* carry the replica."
)


class Forward:
    """ASGI application that asks replicas; stands behind :class:`Intake`."""

    def __init__(self, ask: Ask, *, retries: int, timeout_s: float) -> None:
        """Forward to whoever ``ask`` reaches."""
        self._ask = ask
        self._retries = retries
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request from a replica, or say that there is none."""
        if scope["type"] != "http":
            return
        body = (await receive()).get("body", b"")
        asking = self._persistently(scope, body, record_of(scope))
        try:
            answer = await asyncio.wait_for(asking, self._timeout_s)
        except asyncio.TimeoutError:  # not the builtin before Python 3.11
            message = f"no replica answered within {self._timeout_s:g} s."
            response = failure(scope, Refusal(503, message, _RETRY))
        except Refusal as refusal:
            response = failure(scope, refusal)
        else:
            response = Response(answer.body, answer.status)
            # Serve's proxy adds the identity itself.
            response.raw_headers = [one for one in answer.headers if one[0].lower() != _IDENTITY]
        await response(scope, receive, send)

    async def _persistently(self, scope: Scope, body: bytes, record: Record) -> Answer:
        if scope["path"] == "/metrics":
            raise Refusal(404, _METRICS)
        for attempt in range(self._retries + 1):
            try:
                return await self._ask(_call(scope, body, record))
            except serve_errors.BackPressureError as error:
                message = "too many requests wait for a replica."
                raise Refusal(429, message, _RETRY) from error
            except serve_errors.DeploymentUnavailableError as error:
                message = "the replicas cannot be started; see `serve status`."
                raise Refusal(503, message, _RETRY) from error
            except ray_errors.RayError as error:
                if not lost(error):
                    raise
                fields = {"request_id": record.request_id, "attempt": attempt + 1}
                logger.warning("a replica was lost", extra={"fields": fields})
            # Full jitter; the router needs a moment to hear of the death.
            await asyncio.sleep(random.uniform(0, _FIRST_WAIT_S * 2**attempt))  # noqa: S311
        message = f"{self._retries + 1} replicas died over this request; it is given up."
        raise Refusal(503, message, _RETRY)


def lost(error: BaseException) -> bool:
    """Return whether the replica failed, not the request: another one may answer it."""
    cause = error.cause if isinstance(error, ray_errors.RayTaskError) else error
    return isinstance(error, _LOST) or isinstance(cause, _LOST)


def _call(scope: Scope, body: bytes, record: Record) -> Call:
    """Return the request as a replica should see it: one identity, and the time that is left."""
    headers = [(_IDENTITY, record.request_id.encode("ascii"))]
    for name, value in scope["headers"]:
        if name == _DEADLINE:
            headers.append((name, _remaining(value, record)))
        elif name != _IDENTITY:
            headers.append((name, value))
    return Call(scope["method"], scope["path"], scope["query_string"], headers, body)


def _remaining(value: bytes, record: Record) -> bytes:
    try:
        total = float(value)
    except ValueError:
        return value  # the replica says what is wrong with it
    left = total - record.seconds * 1000
    if total > 0 >= left:
        raise Refusal(504, f"not done within the {total:g} ms of X-Deadline-Ms.")
    return f"{left:.3f}".encode("ascii") if total > 0 else value


def guarded(app: Forward, guard: Callable[[ASGIApp], ASGIApp]) -> ASGIApp:
    """Return the application behind a middleware, with the lifespan that Serve wants."""
    inner = guard(app)

    async def whole(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            new_record(scope)
            await inner(scope, receive, send)
            return
        for event in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{event}.complete"})

    return whole


# No `from __future__ import annotations`: Serve reads the builder's annotation as a class.


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
"""The application with its defaults, for ``serve build rerank_plugins.ray.serve:app``."""
