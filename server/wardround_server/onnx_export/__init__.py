"""Models as ONNX files, for whoever predicts without Python. Needs the extra ``onnx``; the rest does not."""
