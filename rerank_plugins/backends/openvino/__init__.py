"""Cross-encoders and bi-encoders on a CPU through OpenVINO, in float32, bfloat16 or int8."""
