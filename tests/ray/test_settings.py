"""The arguments of the application, and the configuration file of the documentation."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rerank_plugins.errors import ConfigurationError
from rerank_plugins.ray.settings import RayServeSettings
from rerank_plugins.serving import ServerSettings
from tests.ray.live import BUILD, ENVIRONMENT, ROOT

pytest.importorskip("ray.serve", reason="the extra ray is not installed")

import yaml
from ray.serve.schema import ServeDeploySchema

from rerank_plugins.ray import serve as ray_serve
from rerank_plugins.ray.replica import RerankReplica


def test_the_server_s_settings_are_there_with_the_same_defaults() -> None:
    assert ServerSettings(**RayServeSettings().server()) == ServerSettings()
    assert set(RayServeSettings().server()) == {field.name for field in fields(ServerSettings)}


def test_replicas_are_fixed_or_scaled() -> None:
    assert RayServeSettings(replicas=3).scaling() == {"num_replicas": 3}
    assert RayServeSettings(replicas=3, max_replicas=3).scaling() == {"num_replicas": 3}
    scaled = RayServeSettings(replicas=1, max_replicas=5).scaling()["autoscaling_config"]
    assert (scaled["min_replicas"], scaled["max_replicas"]) == (1, 5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"replica": 2},
        {"replicas": 0},
        {"replicas": 4, "max_replicas": 2},
        {"num_gpus": -1},
        {"drain_s": float("inf")},
        {"model": 3},
    ],
    ids=str,
)
def test_what_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RayServeSettings(**wrong)


def test_limits_are_checked_before_anything_starts() -> None:
    with pytest.raises(ConfigurationError, match="max_documents"):
        ray_serve.build(RayServeSettings(max_documents=0))


def test_a_replica_that_needs_a_token_does_not_serve_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RERANK_PLUGINS_TOKEN", raising=False)
    with pytest.raises(ConfigurationError, match="RERANK_PLUGINS_TOKEN"):
        RerankReplica({}, require_token=True)


def test_the_file_of_the_documentation_is_one() -> None:
    page = (ROOT / "docs" / "ray.md").read_text("utf-8")
    found = re.search(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert found is not None
    schema = ServeDeploySchema.model_validate(yaml.safe_load(found[1]))
    assert schema.http_options.host == "127.0.0.1"
    (application,) = schema.applications
    assert application.import_path == BUILD
    ray_serve.build(RayServeSettings.model_validate(application.args))
    (deployment,) = application.deployments
    assert deployment.name == ray_serve.SCORERS
    ServerSettings(**(deployment.user_config or {}))


@pytest.mark.slow
def test_serve_build_writes_a_file(tmp_path: Path) -> None:
    program, file = shutil.which("serve", path=ENVIRONMENT["PATH"]), tmp_path / "serve.yaml"
    assert program is not None
    done = subprocess.run(  # noqa: S603
        [program, "build", "rerank_plugins.ray.serve:app", "-o", str(file)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    schema = ServeDeploySchema.model_validate(yaml.safe_load(file.read_text("utf-8")))
    names = {deployment.name for deployment in schema.applications[0].deployments}
    assert names == {ray_serve.SCORERS, ray_serve.INGRESS}
