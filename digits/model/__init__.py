"""Model: the exported network and its measures; needs no TensorFlow.

- `calibration`: temperature scaling and thresholds for a target error
- `drift`: how a folder differs from the test images
- `metrics`: accuracy, calibration error, confusion and per-class figures
- `onnx_model`: the exported model: loading and prediction with ONNX Runtime
- `safety`: checks of an ONNX file before it is loaded
"""
