"""Cross-encoders and bi-encoders on a CPU through OpenVINO, in float32, bfloat16 or int8."""

from __future__ import annotations

from rerank_plugins.backends.openvino.telemetry import import_without_telemetry

# Before any module of this package imports it: its telemetry starts at import.
import_without_telemetry("openvino")
