"""What each network costs: operations an image, weights, and images a second of one ONNX Runtime pass on one core.

python -m benchmarks architectures

The networks are untrained, as their weights change nothing about that.
"""

import tempfile
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnxruntime

from benchmarks.networks import CLASSES, SIDE, operations
from digits import models
from digits.config import Architecture, TrainingRun
from digits.inference import BATCH

ROUNDS = 20


def main() -> None:
    """Print a line a network; each one's rate is its best pass, as neighbours only ever slow one down."""
    print(f"{'network':<10}{'MFLOP':>8}{'weights':>10}{'images/s':>10}")
    with tempfile.TemporaryDirectory() as place:
        for architecture in get_args(Architecture):
            path = Path(place) / f"{architecture}.onnx"
            weights = _export(architecture, path)
            rate = _rate(path)
            print(f"{architecture:<10}{operations(path) / 1e6:>8.2f}{weights:>10,}{rate:>10,.0f}", flush=True)


def _export(architecture: str, path: Path) -> int:
    config = TrainingRun.model_validate({"model": {"architecture": architecture}}).resolved().model
    network = models.build(config, input_shape=(SIDE, SIDE), classes=CLASSES, seed=1)
    models.export_onnx(network, path)
    return int(network.count_params())


def _rate(path: Path) -> float:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).uniform(0, 255, (BATCH, SIDE, SIDE, 1)).astype(np.float32)
    return BATCH / min(_seconds(session, images) for _ in range(ROUNDS))


def _seconds(session: Any, images: Any) -> float:
    began = time.process_time()
    session.run(None, {session.get_inputs()[0].name: images})
    return time.process_time() - began


if __name__ == "__main__":
    main()
