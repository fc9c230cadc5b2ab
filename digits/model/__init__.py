"""Model: the exported network and its metrics, without TensorFlow.

- `baseline`: the first images of a table, with which later runs are compared
- `calibration`: temperature scaling, and thresholds for a target error rate
- `drift`: how a folder differs from the test images, or from a baseline
- `metrics`: accuracy, calibration error, confusion matrix and per-class figures
- `onnx_model`: the exported model: loading and prediction with ONNX Runtime
- `safety`: checks of model files before they are loaded
"""
