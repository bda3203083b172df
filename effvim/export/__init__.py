"""Export to ONNX, OpenVINO and others: graphs, files, 8-bit integers, comparison with PyTorch."""
