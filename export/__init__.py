"""From a checkpoint to a bundle: ONNX graphs, their verification, the manifest."""
