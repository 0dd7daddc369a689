"""A finished run as programs that need no Paribus: ONNX and torch.export, and what they take and answer in JSON."""
