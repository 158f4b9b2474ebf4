"""Models that run without torch's kernels: their parts as graphs of ONNX or OpenVINO."""
