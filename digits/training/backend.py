"""The one place where TensorFlow is imported, quietly and with a memory allocator that suits it."""

import ctypes
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType

from digits.errors import ModelError

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Numbers of the options of glibc's `mallopt`, from its `malloc.h`."""
_CHATTER = re.compile(rb"WARNING: All log messages before absl::InitializeLog|I\d{4} ")
"""How lines begin that TensorFlow prints before its log level counts: that oneDNN is on, where the CPU suits it."""


@cache
def load_keras() -> ModuleType:
    """Import Keras on TensorFlow (5 to 18 s, 700 MB) without its start-up chatter.

    Raises:
        ModelError: the `train` extra is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    keep_freed_memory()
    try:
        with suppress_startup_messages(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import keras
            import tensorflow as tf
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{error.name} is not installed, and training needs it; install Digits with its 'train' extra"
        ) from error
    tf.get_logger().setLevel("ERROR")
    module: ModuleType = keras
    return module


@contextmanager
def suppress_startup_messages() -> Iterator[None]:
    """Keep the remarks that TensorFlow makes when it is loaded from standard error, that of C++ too; nothing else."""
    sys.stderr.flush()
    shown = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(shown, 2)
            os.close(shown)
            held.seek(0)
            for line in held:
                if not _CHATTER.match(line):
                    os.write(2, line)


def keep_freed_memory() -> None:
    """Have glibc keep what is freed instead of returning it to the kernel; other C libraries are left alone.

    TensorFlow allocates and frees each activation in every step. With glibc's defaults each of them is mapped, zeroed
    page by page and unmapped again, which takes half of a training step's time.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "gnu_get_libc_version"):
        library.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        library.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
        library.mallopt(M_TOP_PAD, 1 << 28)
