"""Training: all that needs TensorFlow and Keras.

- `augmentation`: random changes of training images
- `backend`: import and configuration of TensorFlow
- `config`: settings of networks and of their training
- `export`: a trained network as an ONNX file
- `fit`: fitting, checkpoints and resuming
- `networks`: the network architectures
- `novelty`: the out-of-distribution score, added to the exported model
"""
