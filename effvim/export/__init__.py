"""Export to ONNX: the graph, the file, 8-bit integers, and the comparison with PyTorch."""
