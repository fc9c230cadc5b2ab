"""TensorFlow backend: import of Keras and TensorFlow, with oneDNN and without start-up messages; memory settings."""

import ctypes
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType

from digits.errors import ModelError
from digits.extras import require_extra
from digits.store.code_version import library_versions
from digits.store.processor import ONEDNN_VARIABLE, vector_instructions
from digits.training.devices import find_conflict, use_gpus

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Option numbers of glibc's `mallopt`, from `malloc.h`."""
_STARTUP_MESSAGE = re.compile(rb"WARNING: All log messages before absl::InitializeLog|I\d{4} ")
"""Beginning of the lines that TensorFlow prints before its log level applies, such as the one about oneDNN."""
logger = logging.getLogger(__name__)


@cache
def load_keras() -> ModuleType:
    """Import Keras with TensorFlow as backend, which takes 5 to 18 s and 700 MB, and return the `keras` module.

    GPUs are configured for training; see `digits.training.devices`.

    Raises:
        ModelError: if the extra `train` is not installed.
    """
    require_training()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    if prefers_onednn(vector_instructions()):
        os.environ.setdefault(ONEDNN_VARIABLE, "1")
    keep_freed_memory()
    if conflict := find_conflict(library_versions()):
        logger.warning("%s", conflict)
    with suppress_startup_messages(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import keras
        import tensorflow as tf

        use_gpus(tf)
    tf.get_logger().setLevel("ERROR")
    module: ModuleType = keras
    return module


def prefers_onednn(instructions: Collection[str]) -> bool:
    """Return whether oneDNN trains faster than TensorFlow's own operations on a processor with these instructions.

    TensorFlow itself turns oneDNN on for newer processors only. With AVX2 it saves a third of the time of a step. The
    choice depends on nothing but the instructions, so that a machine always computes the same weights.
    """
    return {"avx2", "fma"} <= set(instructions)


def require_training() -> None:
    """Check that the libraries of training are installed, without importing them.

    Raises:
        ModelError: if the extra `train` is not installed.
    """
    for library in ("keras", "tensorflow"):
        require_extra(library, "training", error=ModelError)


@contextmanager
def suppress_startup_messages() -> Iterator[None]:
    """Remove TensorFlow's start-up messages from standard error, including those of C++ code; keep all other lines."""
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            os.close(original)
            captured.seek(0)
            for line in captured:
                if not _STARTUP_MESSAGE.match(line):
                    os.write(2, line)


def keep_freed_memory() -> None:
    """Configure glibc to keep freed memory instead of returning it to the kernel; do nothing for other C libraries.

    TensorFlow allocates and frees each activation in every step. With glibc's default settings, the memory of each is
    mapped, zeroed page by page and unmapped again, which takes half of the time of a training step.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "gnu_get_libc_version"):
        library.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        library.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
        library.mallopt(M_TOP_PAD, 1 << 28)
