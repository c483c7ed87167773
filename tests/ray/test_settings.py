"""Settings of the Ray Serve application, and the configuration file in the documentation."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rerank_plugins.errors import ConfigurationError
from rerank_plugins.ray.settings import RayServeSettings
from rerank_plugins.serving import ServerSettings
from tests.ray.live import BUILDER, ENVIRONMENT, ROOT

pytest.importorskip("ray.serve", reason="the extra ray is not installed")

import yaml
from ray.serve.schema import ServeDeploySchema

from rerank_plugins.ray import serve as ray_serve
from rerank_plugins.ray.replica import RerankReplica


def test_server_settings_have_the_same_defaults() -> None:
    assert ServerSettings(**RayServeSettings().server()) == ServerSettings()
    assert set(RayServeSettings().server()) == set(ServerSettings.model_fields)


def test_the_number_of_replicas_is_fixed_or_scaled() -> None:
    assert RayServeSettings(replicas=3).scaling() == {"num_replicas": 3}
    assert RayServeSettings(replicas=3, max_replicas=3).scaling() == {"num_replicas": 3}
    scaled = RayServeSettings(replicas=1, max_replicas=5).scaling()["autoscaling_config"]
    assert (scaled["min_replicas"], scaled["max_replicas"]) == (1, 5)


@pytest.mark.parametrize(
    "invalid",
    [
        {"replica": 2},
        {"replicas": 0},
        {"replicas": 4, "max_replicas": 2},
        {"num_gpus": -1},
        {"drain_s": float("inf")},
        {"model": 3},
        {"model": None},
        {"max_documents": 0},
    ],
    ids=str,
)
def test_invalid_settings_are_rejected(invalid: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=list(invalid)[-1]):
        RayServeSettings(**invalid)


def test_strings_of_the_command_line_are_converted() -> None:
    arguments = {"replicas": "2", "max_length": "256", "revision": "1", "fusion": "rrf"}
    settings = RayServeSettings.model_validate(arguments)
    assert (settings.replicas, settings.max_length) == (2, 256)
    assert (settings.revision, settings.fusion) == ("1", "rrf")


def test_serve_can_read_the_class_of_the_arguments() -> None:
    parameter = inspect.signature(ray_serve.build_app).parameters["args"]
    assert parameter.annotation is RayServeSettings


def test_a_replica_that_requires_a_token_fails_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RERANK_PLUGINS_TOKEN", raising=False)
    with pytest.raises(ConfigurationError, match="RERANK_PLUGINS_TOKEN"):
        RerankReplica({}, require_token=True)


def test_the_configuration_file_of_the_docs_is_valid() -> None:
    page = (ROOT / "docs" / "serving.md").read_text("utf-8")
    match = re.search(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert match is not None
    schema = ServeDeploySchema.model_validate(yaml.safe_load(match[1]))
    assert schema.http_options.host == "127.0.0.1"
    (application,) = schema.applications
    assert application.import_path == BUILDER
    ray_serve.build_app(RayServeSettings.model_validate(application.args))
    (deployment,) = application.deployments
    assert deployment.name == ray_serve.REPLICA_DEPLOYMENT
    ServerSettings(**(deployment.user_config or {}))


@pytest.mark.slow
def test_serve_build_writes_a_file(tmp_path: Path) -> None:
    program, file = shutil.which("serve", path=ENVIRONMENT["PATH"]), tmp_path / "serve.yaml"
    assert program is not None
    completed = subprocess.run(  # noqa: S603
        [program, "build", "rerank_plugins.ray.serve:app", "-o", str(file)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    schema = ServeDeploySchema.model_validate(yaml.safe_load(file.read_text("utf-8")))
    names = {deployment.name for deployment in schema.applications[0].deployments}
    assert names == {ray_serve.REPLICA_DEPLOYMENT, ray_serve.INGRESS_DEPLOYMENT}
