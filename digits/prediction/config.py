"""Settings of prediction: selection of files, limits for reading them, and columns of the table."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from digits.images.folder import LinkRule
from digits.images.formats import DEFAULT_MAX_BYTES, DEFAULT_MAX_PIXELS, Mode, OtherFormat
from digits.images.pages import PageChoice
from digits.outputs.table import CsvDialect
from digits.settings import Settings

Pattern = Annotated[str, Field(min_length=1, max_length=1000)]


class PredictionConfig(Settings):
    """Selection of files, limits for reading them, and contents of the table; forms show the settings in this order."""

    recursive: bool = Field(True, description="Include subfolders.")
    include: tuple[Pattern, ...] = Field(
        (),
        description="Take the files that match a pattern. Their extensions do not matter: `*.dat` or `[0-9]*` at any "
        "depth, `scans/**/page?.png` relative to the folder. A pattern that matches a folder applies to everything in "
        "it.",
    )
    exclude: tuple[Pattern, ...] = Field(
        (), description="Leave out what matches a pattern. Applies to files and folders, and overrides `include`."
    )
    max_error: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Error rate accepted among `ok` rows. Predictions are flagged as `uncertain` so that at most this "
        "share of the others is wrong, estimated on the model's validation images with 95 % confidence. Example: 0.002 "
        "for 2 in 1,000. Without it, none are flagged.",
    )
    top_k: int = Field(
        1,
        ge=1,
        le=100,
        description="Most likely classes in the table. Each of this number of classes has a column, and one with its "
        "probability.",
    )
    probabilities: bool = Field(False, description="Add one column per class with its probability.")
    csv_dialect: CsvDialect = Field(
        "standard",
        description="`standard` or `excel`. `standard` has commas, `excel` has semicolons, decimal commas and a byte "
        "order mark, for Excel on a system that writes decimal commas.",
    )
    report: bool = Field(
        True,
        description="Write a page beside the table. `<table>.report.html` has the counts, the least certain and the "
        "flagged images, failures and drift.",
    )
    incremental: bool = Field(
        False,
        description="Predict only new and changed files. The last incremental run into the same table is the "
        "reference: a file with the same size, modification time and inode is unchanged.",
    )
    verify: bool = Field(
        False,
        description="Compare the content of files. With `incremental`, the SHA-256 of every file is compared "
        "to find changes.",
    )
    replace_version: int | None = Field(
        None,
        ge=1,
        description="Predict the rows of this version again. All other rows of the existing table stay as they are.",
    )
    normalize: Mode = Field(
        "auto",
        description="Normalize: `auto`, `mnist` or `none`. `auto` is the mode the model was trained with; `mnist` "
        "converts all images to MNIST's form; `none` only scales to the network's input size.",
    )
    follow_links: LinkRule = Field(
        "no",
        description="Links: `no`, `inside`, `anywhere`. `inside` follows links to files and folders within the folder, "
        "`anywhere` also links that lead out of it, such as those of DVC and git-annex.",
    )
    files_from: Path | None = Field(
        None,
        description="File that lists the paths to take. It has one path per line, or each ended by NUL, absolute or "
        "relative to the folder. `-` is standard input, but not in a deployment.",
    )
    all_files: bool = Field(False, description="Take every regular file. Its extension does not matter.")
    by_content: bool = Field(
        False,
        description="Take files that begin like images. The first bytes of every file are read, and its name does "
        "not matter.",
    )
    system_files: bool = Field(
        False,
        description="Take system files too. These are the files and folders that operating systems, storage devices "
        "and version control create, such as `._a.png`, `__MACOSX`, `@eaDir` and `.git`. By default, they are left out "
        "and counted.",
    )
    other_formats: tuple[OtherFormat, ...] = Field(
        (),
        description="Further image format to read. It is read with its extensions, besides PNG, JPEG, GIF, BMP, WebP "
        "and TIFF.",
    )
    pages: PageChoice = Field(
        "all",
        description="Pages of a TIFF or PDF: `all`, `first`. With `all`, each page has a row. Of animations, only "
        "the first frame is read.",
    )
    max_seconds: float = Field(
        10, gt=0, le=3600, description="Seconds for reading an image. Reading is stopped after that."
    )
    max_bytes: int = Field(
        DEFAULT_MAX_BYTES, ge=1, description="Largest file size in bytes. Larger files are not read."
    )
    max_pixels: int = Field(
        DEFAULT_MAX_PIXELS, ge=1, description="Largest number of pixels. Larger images are not decoded."
    )
    shard_size: int = Field(
        2_000,
        ge=1,
        le=100_000,
        description="Number of images per shard, the unit in which results are saved and resumed.",
    )
    processes: int | None = Field(None, ge=1, le=1024, description="Worker processes. Default: one per usable CPU.")
    force: bool = Field(
        False,
        description="Overwrite foreign or changed files. These are a table and the files beside it that Digits did not "
        "write, or that were changed since. Also drop the rows of images that are gone, however many.",
    )


_OPTIONS = {"other_formats": "other-format"}
"""Options of `digits predict` whose names differ from their settings."""
_NO_OPTIONS = {"shard_size", "force"}
"""Settings that no option sets, or that a command must not have that is copied."""


def command_for(source: Path, out: Path, version: int, options: PredictionConfig) -> str:
    """Return the command that makes the same table.

    Args:
        source: folder, archive or single image.
        out: path of the table.
        version: number of the model version.
        options: settings; those that are the default are left out.
    """
    words = ["digits", "predict", str(source.absolute()), "--out", str(out), "--model", str(version)]
    for name, field in PredictionConfig.model_fields.items():
        value = getattr(options, name)
        if value != field.default and name not in _NO_OPTIONS:
            words += _option(_OPTIONS.get(name, name.replace("_", "-")), value)
    return shlex.join(words)


def _option(name: str, value: object) -> Iterator[str]:
    """Yield the words of an option."""
    if isinstance(value, bool):
        yield f"--{name}" if value else f"--no-{name}"
        return
    for one in value if isinstance(value, tuple) else [value]:
        yield from (f"--{name}", str(one))
