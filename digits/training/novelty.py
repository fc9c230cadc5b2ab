"""Out-of-distribution score: a second output of the exported network that measures how unlike a digit an image is.

The softmax output cannot measure this: it is as confident about a shoe as about a seven. Distances in the penultimate
layer do not work either, if the network was trained on strongly augmented digits. So small networks (heads) with one
hidden layer are fitted to separate augmented digits from the images of `digits.data.non_digits`. The
classifier stays as it is. The features of the heads are the input of the last layer, and the mean and maximum of each
channel of the earlier layers.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from digits.data.non_digits import draw_non_digits
from digits.data.synthetic_digits import are_digits, draw_handwritten_digits, render_printed_digits
from digits.errors import ModelError
from digits.images.types import Pixels
from digits.progress import SILENT, Bar
from digits.training.augmentation import distort
from digits.training.config import AugmentationConfig
from digits.training.fit import draw_transforms
from digits.training.heads import Floats, Head, fit_head

Random = np.random.Generator

OUTPUT = "novelty"
"""Name of the output in the ONNX file."""
HEADS = 8
"""Number of heads, whose scores are averaged."""
REJECTED_SHARE = 0.008
"""Share of the validation images that is rejected. Fewer test images are rejected, because they are easier."""

NON_DIGITS = 12_000
"""Number of synthetic non-digits for the fit, before augmentation."""
DIGITS = 16_000
"""Largest number of training images for the fit, before augmentation."""
PRINTED = 20
"""Number of printed digits for the fit, per class and font."""
WRITTEN = 300
"""Number of synthetic handwritten digits for the fit, per form."""

_NORMAL = AugmentationConfig()
_STRONG = AugmentationConfig(stroke=1, blur=2.5, contrast=0.9)
"""Augmentation that makes digits thicker, softer and paler than the training images, but leaves them digits."""
_BATCH = 512
"""Images per batch when features are computed."""
EPOCHS = 8
"""Number of epochs of the fit."""


class FitImages(NamedTuple):
    """Images to which the score is fitted.

    Args:
        digits: (N, height, width) uint8.
        others: (M, height, width) uint8, non-digits.
    """

    digits: Pixels
    others: Pixels


def add_novelty_output(  # noqa: PLR0913 - the network, the images, the seed, and the receiver of progress
    onnx: Path,
    train: Pixels,
    validation: Pixels,
    class_names: Sequence[str],
    *,
    seed: int = 42,
    bar: Bar | None = None,
) -> FitImages | None:
    """Add the output `novelty`, (N, 1) float32, to an exported network whose classes are digits.

    Args:
        onnx: file of the exported network, which is replaced.
        train: (N, height, width) uint8, training images of the network.
        validation: (M, height, width) uint8, images that were not used for training, to set the threshold.
        class_names: names of the network's classes.
        seed: random seed of the synthetic images and of the fit.
        bar: receiver of the progress, in four steps.

    Returns:
        The images to which the score was fitted; None if the classes are not digits, and no output was added.

    Raises:
        ModelError: if the last layer of the network is not a dense layer.
    """
    if not are_digits(class_names):
        return None
    bar = bar or SILENT.start("export", 4)
    bar.advance(note="drawing digits")
    network = _FeatureExtractor(onnx)
    random = np.random.default_rng([seed, 254])
    shape = (train.shape[1], train.shape[2])
    digits = _draw_digits(random, train, class_names, seed=seed)
    bar.advance(note="drawing non-digits")
    with ThreadPoolExecutor(1) as pool:  # ONNX Runtime computes while Python draws
        shown = pool.submit(network.features, digits)
        others = draw_non_digits(train, NON_DIGITS, seed=seed, shape=shape)
        others = np.concatenate([others, _augment(random, others, _NORMAL)])
        bar.advance(note="computing features")
        features = shown.result(), network.features(others)
    bar.advance(note="fitting heads")
    network.write(onnx, _with_limit(fit_head(*features, heads=HEADS, epochs=EPOCHS, seed=seed), network, validation))
    return FitImages(digits, others)


def fit_novelty_output(onnx: Path, images: FitImages, validation: Pixels, *, heads: int, seed: int) -> None:
    """Add the output `novelty` to an exported network, fitted to images that were drawn for another one.

    Raises:
        ModelError: if the last layer of the network is not a dense layer.
    """
    network = _FeatureExtractor(onnx)
    features = network.features(images.digits), network.features(images.others)
    network.write(onnx, _with_limit(fit_head(*features, heads=heads, epochs=EPOCHS, seed=seed), network, validation))


def _with_limit(head: Head, network: "_FeatureExtractor", validation: Pixels) -> Head:
    """Return the head with a bias by which `REJECTED_SHARE` of the validation images are rejected."""
    limit = float(np.quantile(head.scores(network.features(validation)), 1 - REJECTED_SHARE))
    return head._replace(out_bias=head.out_bias - np.float32(limit))


def _draw_digits(random: Random, train: Pixels, class_names: Sequence[str], *, seed: int) -> Pixels:
    """Return training images and synthetic digits, unchanged and with normal and strong augmentation."""
    chosen = train[np.sort(random.choice(len(train), min(DIGITS, len(train)), replace=False))]
    printed, _ = render_printed_digits(class_names, PRINTED, seed=seed + 1, shape=(train.shape[1], train.shape[2]))
    written, _ = draw_handwritten_digits(class_names, WRITTEN, seed=seed + 1, shape=(train.shape[1], train.shape[2]))
    printed = np.concatenate([printed, written])
    parts = [_augment(random, part, limits) for part in (chosen, printed) for limits in (_NORMAL, _STRONG)]
    parts += [distort(random, part, _STRONG) for part in parts[1::2]]
    return np.concatenate([chosen, printed, *parts])


def _augment(random: Random, pixels: Pixels, limits: AugmentationConfig) -> Pixels:
    """Augment images as in training: stroke width, blur, contrast and lines, then an affine map."""
    import cv2

    height, width = pixels.shape[1:]
    maps = draw_transforms(random, len(pixels), limits, (height, width))[:, :6].reshape(-1, 2, 3)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    inked = distort(random, pixels, limits)
    return np.stack(
        [cv2.warpAffine(one, by, (width, height), flags=flags) for one, by in zip(inked, maps, strict=True)]
    )


class _FeatureExtractor:
    """Exported network that outputs the features for the head.

    Raises:
        ModelError: if the last layer of the network is not a dense layer.
    """

    def __init__(self, path: Path) -> None:
        import onnx

        self._model = onnx.load(path)
        self._nodes = _feature_nodes(self._model.graph)

    def features(self, pixels: Pixels) -> Floats:
        """Compute the features of images, on all cores: (N, height, width) uint8 -> (N, F) float32."""
        import onnxruntime

        model = self._extend(self._nodes, "features")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name

        def compute(start: int) -> Floats:
            batch = pixels[start : start + _BATCH, ..., np.newaxis].astype(np.float32)
            features: Floats = session.run(["features"], {name: batch})[0]
            return features

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return np.concatenate(list(pool.map(compute, range(0, len(pixels), _BATCH))))

    def write(self, path: Path, head: Head) -> None:
        """Write the network with the head to an ONNX file."""
        import onnx
        from onnx import helper, numpy_helper

        nodes = [
            *self._nodes,
            helper.make_node("MatMul", ["features", "novelty_hidden"], ["novelty_1"]),
            helper.make_node("Add", ["novelty_1", "novelty_hidden_bias"], ["novelty_2"]),
            helper.make_node("Relu", ["novelty_2"], ["novelty_3"]),
            helper.make_node("MatMul", ["novelty_3", "novelty_out"], ["novelty_4"]),
            helper.make_node("Add", ["novelty_4", "novelty_out_bias"], [OUTPUT]),
        ]
        model = self._extend(nodes, OUTPUT)
        weights = [numpy_helper.from_array(value, f"novelty_{name}") for name, value in head._asdict().items()]
        model.graph.initializer.extend(weights)
        onnx.checker.check_model(model)
        onnx.save(model, path)

    def _extend(self, nodes: Sequence[Any], output: str) -> Any:
        import onnx
        from onnx import helper

        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        model.graph.node.extend(nodes)
        model.graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["N", None]))
        return model


def _feature_nodes(graph: Any) -> list[Any]:
    """Return the nodes that compute the features: the output `features` is the concatenation of two kinds of values.

    These are the input of the last dense layer, and the mean and maximum per channel of the input of each convolution.
    The first convolution is left out, because its input is the image.
    """
    from onnx import helper

    dense = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    if not dense:
        raise ModelError(
            "the out-of-distribution score needs a dense last layer, but the exported network has none; train one of "
            "the architectures of Digits"
        )
    nodes, parts = [], [dense[-1].input[0]]
    for number, node in enumerate([node for node in graph.node if node.op_type == "Conv"][1:]):
        for kind in ("ReduceMean", "ReduceMax"):
            parts.append(f"novelty_{kind}_{number}")
            nodes.append(helper.make_node(kind, [node.input[0]], [parts[-1]], axes=[2, 3], keepdims=0))
    return [*nodes, helper.make_node("Concat", parts, ["features"], axis=1)]
