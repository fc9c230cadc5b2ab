"""Digits: tables of predictions from folders of handwritten-digit images, and the models behind them.

    import digits

    digits.train("mnist-sample", preset="quick")
    df = digits.predict("scans", out="scans.csv")
    df[df.status != "ok"]

The names below are the public API. Each is loaded on first use, so that a worker process loads only what it needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from digits.api import (
        add_labels,
        evaluate,
        export_model,
        inspect,
        list_models,
        load_model,
        predict,
        read_drift,
        read_labels,
        read_table,
        train,
    )
    from digits.data.config import ArraysConfig
    from digits.errors import DigitsError
    from digits.maintenance.retention import RetentionConfig
    from digits.model.classifier import Model
    from digits.pipeline.config import PromotionPolicy
    from digits.prediction.config import PredictionConfig
    from digits.training.config import AugmentationConfig, ModelConfig, TrainingConfig

    __version__: str

__all__ = [
    "ArraysConfig",
    "AugmentationConfig",
    "DigitsError",
    "Model",
    "ModelConfig",
    "PredictionConfig",
    "PromotionPolicy",
    "RetentionConfig",
    "TrainingConfig",
    "__version__",
    "add_labels",
    "evaluate",
    "export_model",
    "inspect",
    "list_models",
    "load_model",
    "predict",
    "read_drift",
    "read_labels",
    "read_table",
    "train",
]

_MODULES = {
    "ArraysConfig": "digits.data.config",
    "AugmentationConfig": "digits.training.config",
    "DigitsError": "digits.errors",
    "Model": "digits.model.classifier",
    "ModelConfig": "digits.training.config",
    "PredictionConfig": "digits.prediction.config",
    "PromotionPolicy": "digits.pipeline.config",
    "RetentionConfig": "digits.maintenance.retention",
    "TrainingConfig": "digits.training.config",
    "add_labels": "digits.api",
    "evaluate": "digits.api",
    "export_model": "digits.api",
    "inspect": "digits.api",
    "list_models": "digits.api",
    "load_model": "digits.api",
    "predict": "digits.api",
    "read_drift": "digits.api",
    "read_labels": "digits.api",
    "read_table": "digits.api",
    "train": "digits.api",
}
"""Module of each public name."""


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        return version("digits")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
