"""Export: ONNX, parity, and the precomputed answers made from the exported file."""
