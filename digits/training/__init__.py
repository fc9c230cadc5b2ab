"""Training: networks and their fit. Only this package imports TensorFlow and Keras.

- `augmentation`: random changes of stroke width, blur, contrast and lines
- `backend`: import and configuration of TensorFlow
- `cascade`: a small network in front of the trained one, in the exported model
- `config`: settings of networks and of their training
- `devices`: the device that TensorFlow trains on, and the check that one build of it is installed
- `distillation`: the fit of that small network to the predictions of the trained one
- `export`: export of a trained network as an ONNX file
- `fit`: mini-batch training, checkpoints and resuming
- `heads`: the fit of the out-of-distribution score
- `networks`: the network architectures, and their files
- `novelty`: the out-of-distribution score, added to the exported model
"""
