"""Answer predictions on the device: precomputed table, ONNX model, arms, HTTP."""
