"""Settings of prediction: selection of files, limits for reading them, and columns of the table."""

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

    recursive: bool = Field(True, description="Include files in subfolders.")
    include: tuple[Pattern, ...] = Field(
        (),
        description="Take the files that match one of these patterns, whatever their extensions: `*.dat` or `[0-9]*` "
        "at any depth, `scans/**/page?.png` relative to the folder. A pattern that matches a folder applies to "
        "everything in it.",
    )
    exclude: tuple[Pattern, ...] = Field(
        (), description="Leave out the files and folders that match one of these patterns; overrides `include`."
    )
    max_error: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Target error rate: flag predictions as `uncertain` so that at most this share of the others is "
        "wrong, estimated on the model's validation images with 95 % confidence. Example: 0.002 for 2 in 1,000. "
        "Default: flag none.",
    )
    top_k: int = Field(
        1, ge=1, le=100, description="Number of most likely classes in the table, with their probabilities."
    )
    probabilities: bool = Field(False, description="Add one column per class with its probability.")
    csv_dialect: CsvDialect = Field(
        "standard",
        description="Dialect of a CSV table: `standard` has commas, `excel` has semicolons, decimal commas and a byte "
        "order mark, for Excel on a system that writes decimal commas.",
    )
    incremental: bool = Field(
        False,
        description="Predict only files that are new or changed since the last incremental run into the same table. A "
        "file with the same size, modification time and inode is unchanged.",
    )
    verify: bool = Field(
        False, description="With `incremental`: compare the content (SHA-256) of every file to find changes."
    )
    replace_version: int | None = Field(
        None,
        ge=1,
        description="Predict again only the rows of the existing table that this model version wrote. All other rows "
        "stay as they are.",
    )
    normalize: Mode = Field(
        "auto",
        description="Normalization of the images. `auto` is the mode the model was trained with; `mnist` converts all "
        "images to MNIST's form; `none` only scales to the network's input size.",
    )
    follow_links: LinkRule = Field(
        "no",
        description="Follow links: `inside` for links to files and folders within the folder, `anywhere` also for "
        "links that lead out of it, such as those of DVC and git-annex.",
    )
    files_from: Path | None = Field(
        None,
        description="File that lists the paths to take, one per line or each ended by NUL, absolute or relative to the "
        "folder. `-` is standard input, but not in a deployment.",
    )
    all_files: bool = Field(
        False, description="Take every regular file, not only those with the extension of an image."
    )
    by_content: bool = Field(
        False,
        description="Take the files whose first bytes are those of an image format, whatever their names. Every file "
        "is opened.",
    )
    system_files: bool = Field(
        False,
        description="Also take the files and folders that operating systems, storage devices and version control "
        "create, such as `._a.png`, `__MACOSX`, `@eaDir` and `.git`. By default, they are left out and counted.",
    )
    other_formats: tuple[OtherFormat, ...] = Field(
        (),
        description="Additional formats to read, with their extensions, besides PNG, JPEG, GIF, BMP, WebP and TIFF.",
    )
    pages: PageChoice = Field(
        "all",
        description="Pages to read of a TIFF or PDF: `all`, with one row per page, or only the `first`. Of animations, "
        "only the first frame is read.",
    )
    max_seconds: float = Field(10, gt=0, le=3600, description="Time limit for reading an image or a page, in seconds.")
    max_bytes: int = Field(
        DEFAULT_MAX_BYTES, ge=1, description="Largest file size in bytes; larger files are not read."
    )
    max_pixels: int = Field(
        DEFAULT_MAX_PIXELS, ge=1, description="Largest number of pixels of an image; larger images are not decoded."
    )
    shard_size: int = Field(
        2_000,
        ge=1,
        le=100_000,
        description="Number of images per shard, the unit in which results are saved and resumed.",
    )
    processes: int | None = Field(
        None, ge=1, le=1024, description="Number of worker processes. Default: one per usable CPU."
    )
    force: bool = Field(
        False,
        description="Overwrite the table and the files beside it even if Digits did not write them, or if they were "
        "changed since. Also drop the rows of images that are gone, however many.",
    )
