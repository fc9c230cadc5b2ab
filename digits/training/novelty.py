"""Out-of-distribution score: a second output of the exported network that measures how unlike a digit an image is.

The softmax output cannot measure this: it is as confident about a shoe as about a seven. Distances in the penultimate
layer do not work either, if the network was trained on strongly augmented digits. So small networks (heads) with one
hidden layer are fitted to separate augmented and degraded digits from the images of `digits.data.non_digits`. The
classifier stays as it is. The features of the heads are the input of the last layer, and the mean and maximum of each
channel of the earlier layers.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from digits.data.degraded_digits import Indices, degrade_digits
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
HEADS = 4
"""Number of heads, whose scores are averaged."""
REJECTED_SHARE = 0.0075
"""Share of the validation images that is rejected. Fewer test images are rejected, because they are easier."""

NON_DIGITS = 17_000
"""Number of synthetic non-digits for the fit, before augmentation."""
DIGITS = 12_000
"""Largest number of training images for the fit, before augmentation."""
DEGRADED = 7_500
"""Number of degraded digits for the fit, of which those count that the network reads."""
PRINTED = 15
"""Number of printed digits for the fit, per class and font."""
WRITTEN = 225
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


def add_novelty_output(  # noqa: PLR0913 - the network, the images, their number, the seed, and the receiver of progress
    onnx: Path,
    train: Pixels,
    validation: Pixels,
    class_names: Sequence[str],
    *,
    share: float = 1,
    seed: int = 42,
    bar: Bar | None = None,
) -> FitImages | None:
    """Add the output `novelty`, (N, 1) float32, to an exported network whose classes are digits.

    Args:
        onnx: file of the exported network, which is replaced.
        train: (N, height, width) uint8, training images of the network.
        validation: (M, height, width) uint8, images that were not used for training, to set the threshold.
        class_names: names of the network's classes.
        share: how many of the images to fit to, from 0 to 1; all others are neither drawn nor chosen.
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
    images, digits, others = _draw_and_read(network, train, class_names, share, seed=seed, bar=bar)
    bar.advance(note="fitting heads")
    head = fit_head(digits, others, heads=HEADS, epochs=EPOCHS, seed=seed)
    network.write(onnx, _with_limit(head, network, validation))
    return images


def _draw_and_read(  # noqa: PLR0913 - the network, the images, their number, the seed, and the receiver of progress
    network: "_FeatureExtractor", train: Pixels, class_names: Sequence[str], share: float, *, seed: int, bar: Bar
) -> tuple[FitImages, Floats, Floats]:
    """Return digits and non-digits with their features; degraded digits only if the network reads them right.

    ONNX Runtime computes features while Python draws.
    """
    random = np.random.default_rng([seed, 254])
    shape = (train.shape[1], train.shape[2])
    plain = _draw_digits(random, train, class_names, share, seed=seed)
    varied = _vary(random, plain)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(network.read, np.concatenate([plain, varied]))
        copies, origins = degrade_digits(plain, _part(DEGRADED, share), seed=seed + 1, shape=shape)
        read_copies = pool.submit(network.read, copies)
        bar.advance(note="drawing non-digits")
        others = _draw_others(random, train, share, seed=seed)
        bar.advance(note="computing features")
        features, labels = read.result()
        features_of_copies, read_as = read_copies.result()
        kept = read_as == labels[origins]
    digits = np.concatenate([features, features_of_copies[kept]])
    return FitImages(np.concatenate([plain, varied, copies[kept]]), others), digits, network.read(others)[0]


def fit_novelty_output(onnx: Path, images: FitImages, validation: Pixels, *, heads: int, seed: int) -> None:
    """Add the output `novelty` to an exported network, fitted to images that were drawn for another one.

    Raises:
        ModelError: if the last layer of the network is not a dense layer.
    """
    network = _FeatureExtractor(onnx)
    features = network.read(images.digits)[0], network.read(images.others)[0]
    network.write(onnx, _with_limit(fit_head(*features, heads=heads, epochs=EPOCHS, seed=seed), network, validation))


def _with_limit(head: Head, network: "_FeatureExtractor", validation: Pixels) -> Head:
    """Return the head with a bias by which `REJECTED_SHARE` of the validation images are rejected."""
    limit = float(np.quantile(head.scores(network.read(validation)[0]), 1 - REJECTED_SHARE))
    return head._replace(out_bias=head.out_bias - np.float32(limit))


def _part(count: int, share: float) -> int:
    """Return a share of a number of images, at least one."""
    return max(1, round(count * share))


def _draw_digits(random: Random, train: Pixels, class_names: Sequence[str], share: float, *, seed: int) -> Pixels:
    """Choose training images, and draw printed and handwritten digits."""
    shape = (train.shape[1], train.shape[2])
    chosen = train[np.sort(random.choice(len(train), min(_part(DIGITS, share), len(train)), replace=False))]
    printed, _ = render_printed_digits(class_names, _part(PRINTED, share), seed=seed + 1, shape=shape)
    written, _ = draw_handwritten_digits(class_names, _part(WRITTEN, share), seed=seed + 1, shape=shape)
    return np.concatenate([chosen, printed, written])


def _vary(random: Random, digits: Pixels) -> Pixels:
    """Return digits with normal augmentation, with strong augmentation, and with strong augmentation and distortion."""
    strong = _augment(random, digits, _STRONG)
    return np.concatenate([_augment(random, digits, _NORMAL), strong, distort(random, strong, _STRONG)])


def _draw_others(random: Random, train: Pixels, share: float, *, seed: int) -> Pixels:
    """Draw non-digits, and return them unchanged, with normal augmentation, and a quarter of them degraded."""
    shape = (train.shape[1], train.shape[2])
    drawn = draw_non_digits(train, _part(NON_DIGITS, share), seed=seed, shape=shape)
    degraded, _ = degrade_digits(drawn, len(drawn) // 4, seed=seed + 2, shape=shape, whole=True)
    return np.concatenate([drawn, _augment(random, drawn, _NORMAL), degraded])


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


def run_network(model: Any, pixels: Pixels) -> list[Floats]:
    """Run an ONNX network on images, on all cores, and return its outputs.

    Args:
        model: network in memory, whose input has the shape (N, height, width, 1).
        pixels: (N, height, width) uint8.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def compute(start: int) -> list[Floats]:
        outputs: list[Floats] = session.run(
            None, {name: pixels[start : start + _BATCH, ..., np.newaxis].astype(np.float32)}
        )
        return outputs

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = list(pool.map(compute, range(0, len(pixels), _BATCH)))
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


class _FeatureExtractor:
    """Exported network that outputs the features for the head.

    Raises:
        ModelError: if the last layer of the network is not a dense layer.
    """

    def __init__(self, path: Path) -> None:
        import onnx

        self._model = onnx.load(path)
        self._nodes = _feature_nodes(self._model.graph)

    def read(self, pixels: Pixels) -> tuple[Floats, Indices]:
        """Compute the features and the predicted classes of images, on all cores.

        Args:
            pixels: (N, height, width) uint8.

        Returns:
            Features, (N, F) float32, and positions of classes, (N,).
        """
        probabilities, features = run_network(self._extend(self._nodes, "features"), pixels)
        return features, probabilities.argmax(axis=1)

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
