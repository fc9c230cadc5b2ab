"""Settings of prediction: which files are taken, how they are read, and what the table holds."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from digits.images.formats import DEFAULT_MAX_BYTES, DEFAULT_MAX_PIXELS, NORMALIZE_MODES, Mode, OtherFormat
from digits.settings import Settings

Pattern = Annotated[str, Field(min_length=1, max_length=1000)]


class PredictionConfig(Settings):
    """How a folder becomes a table."""

    recursive: bool = Field(True, description="Descend into sub-folders.")
    all_files: bool = Field(False, description="Take every file, not only those with an image's extension.")
    by_content: bool = Field(
        False, description="Take the files that begin as a picture does, whatever their names; each is opened."
    )
    other_formats: tuple[OtherFormat, ...] = Field(
        (), description="Formats to read besides PNG, JPEG, GIF, BMP, WebP and TIFF, and whose extensions to take."
    )
    include: tuple[Pattern, ...] = Field(
        (),
        description="Take the files that match one of these patterns, whatever their extensions: `*.dat` at any depth, "
        "`scans/**/page?.png` from the folder on, `[0-9]*`; a pattern that matches a folder stands for all in it.",
    )
    exclude: tuple[Pattern, ...] = Field((), description="Leave out the files and folders that match one of these.")
    files_from: Path | None = Field(
        None,
        description="A file with the paths to take, one a line or each ended by NUL; relative ones are from the folder "
        "on. `-` is the standard input.",
    )
    normalize: Mode = Field("auto", description=f"As the training does it unless told otherwise. {NORMALIZE_MODES}")
    probabilities: bool = Field(False, description="Add a column a class with its probability.")
    top_k: int = Field(1, ge=1, le=100, description="Add the 2nd to the k-th most likely class.")
    max_error: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Flag predictions as `uncertain` so that at most this share of the others is wrong, by the model's "
        "validation images at 95 % confidence: .002 for 2 in 1,000. Empty: none is flagged.",
    )
    max_pixels: int = Field(DEFAULT_MAX_PIXELS, ge=1, description="Images with more are not decoded.")
    max_bytes: int = Field(DEFAULT_MAX_BYTES, ge=1, description="Files with more are not read.")
    max_seconds: float = Field(10, gt=0, le=3600, description="Images that take longer to read are given up.")
    shard_size: int = Field(2_000, ge=1, le=100_000, description="Images a shard.")
    incremental: bool = Field(
        False,
        description="Predict only what is new or changed since the last incremental run into the same table. Unchanged "
        "is what has the same size, modification time and inode.",
    )
    verify: bool = Field(False, description="With `incremental`: unchanged is what has the same content (SHA-256).")
    replace_version: int | None = Field(
        None,
        ge=1,
        description="Predict only the rows that this model version wrote into the table that is there; all other rows "
        "stay as they are.",
    )
    processes: int | None = Field(None, ge=1, le=1024, description="Worker processes; empty: one a usable CPU.")
