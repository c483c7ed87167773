"""Cross-encoders and bi-encoders on a CPU through OpenVINO, in float32, bfloat16 or int8."""

from __future__ import annotations

from rerank_plugins.backends.openvino.conversion import silent_import

# First of all, before anything else imports it: its telemetry starts when it is imported.
silent_import("openvino")
