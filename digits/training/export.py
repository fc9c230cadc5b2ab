"""Export: conversion of a trained network to an ONNX file with reproducible bytes."""

import contextlib
import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from digits.training.networks import Network


def export_onnx(network: Network, path: Path) -> None:
    """Write a network as ONNX: input `images` (N, height, width, 1) float32 in 0..255, one output (N, classes).

    The same network results in the same bytes, because the names that the converter generates are replaced.
    """
    import onnx

    with _suppress_output():
        network(np.zeros((1, *network.input_shape[1:]), np.float32))  # a loaded Sequential must be called before export
        network.export(path, format="onnx", verbose=False)
    model = onnx.load(path)
    _rename(model.graph)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _rename(graph: Any) -> None:
    """Replace the names of nodes and values by numbered ones, and sort the weights in the order of their use."""
    graph.doc_string = ""  # it contains a temporary path
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    names = {value.name: value.name for value in (*graph.input, *graph.output)}
    for number, node in enumerate(graph.node):
        for value in (*node.input, *node.output):
            names.setdefault(value, f"value_{len(names)}" if value else "")
        node.name = f"node_{number}"
        node.input[:] = [names[value] for value in node.input]
        node.output[:] = [names[value] for value in node.output]
    places = {name: place for place, name in enumerate(names)}
    used = [weight for weight in graph.initializer if weight.name in places]
    weights = sorted(used, key=lambda weight: places[weight.name])
    del graph.value_info[:]
    del graph.initializer[:]
    for weight in weights:
        weight.name = names[weight.name]
        graph.initializer.append(weight)


@contextlib.contextmanager
def _suppress_output() -> Any:
    """Suppress output, warnings and C++ log messages of the converter, which has no option to turn them off."""
    original = os.dup(2)
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(original, 2)
            os.close(original)
