"""Model: the exported network and its metrics, without TensorFlow.

- `baseline`: the first images of a table, with which later runs are compared
- `calibration`: temperature scaling, and thresholds for a target error rate
- `classifier`: a loaded model with the methods of scikit-learn
- `drift`: how a folder differs from the test images, or from a baseline
- `inputs`: images in memory as the content of image files
- `metrics`: accuracy, calibration error, confusion matrix and per-class figures
- `onnx_model`: the exported model: loading and prediction with ONNX Runtime
- `preparation`: an exported network as ONNX Runtime runs it fastest, with the same results
- `protobuf`: the fields of a protobuf message
- `safety`: checks of model files before they are loaded
"""
