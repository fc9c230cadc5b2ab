"""Tests of an environment without extras: what works there, and the sentences about what is missing."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import digits
from digits.errors import ModelError, OperationsError, UsageError
from digits.extras import EXTRAS, require_extra
from digits.images.decode import DecodeError, decode
from digits.store.artifacts import Recipe, Store
from digits.store.registry import ModelFacts, Registry
from tests.support.missing import HERE, run_without
from tests.support.tiny_model import draw, write_model

EXTRA_LIBRARIES = ["matplotlib", "optuna", "pyspng", "scipy", "simplejpeg", *EXTRAS]
COMMAND = "from digits.cli.main import main; main()"
DECODE = """
import sys
from pathlib import Path
import numpy as np
from digits.images.decode import DecodeError, decode
decoded = {}
for path in map(Path, sys.argv[1:]):
    try:
        decoded[path.name] = decode(path.read_bytes(), min_side=112).pixels
    except DecodeError as error:
        print(path.name, error.status, error)
assert not {"pyspng", "simplejpeg"} & set(sys.modules)
np.savez("decoded.npz", **decoded)
"""


def test_nothing_is_required_where_everything_is_installed() -> None:
    for library in EXTRAS:
        require_extra(library, "a test")


def test_each_extra_that_a_sentence_names_is_an_extra_of_the_package() -> None:
    project = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
    assert set(EXTRAS.values()) <= set(project["optional-dependencies"])


def photo(size: tuple[int, int], mode: str) -> Image.Image:
    """Return a photo whose ink shows in grey levels, or for the mode RGB only in colours."""
    columns, rows = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    if mode == "L":
        return Image.fromarray((120 * columns + 120 * rows).astype(np.uint8))
    ink = np.hypot(columns - 0.5, rows - 0.5) < 0.15
    return Image.fromarray(np.where(ink[..., np.newaxis], (220, 60, 60), (0, 145, 145)).astype(np.uint8))


def test_without_the_faster_decoders_pillow_decodes_the_same_files(tmp_path: Path) -> None:
    """A photo is decoded at the same reduced scale, and a damaged file is reported as with them."""
    files = {
        f"{mode}-{width}x{height}.jpg": photo((width, height), mode)
        for mode in ("L", "RGB")
        for width, height in ((641, 479), (1200, 1001), (100, 90))
    }
    files |= {"grey.png": photo((28, 28), "L"), "colour.png": photo((28, 28), "RGB")}
    for name, image in files.items():
        image.save(tmp_path / name, quality=90)
    photo((640, 480), "L").save(
        tmp_path / "upright.jpg", quality=90, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
    )
    paths = [tmp_path / name for name in (*files, "upright.jpg")]
    damaged = [tmp_path / f"damaged-{name}" for name in ("L-641x479.jpg", "grey.png")]
    for path in damaged:
        content = path.with_name(path.name.removeprefix("damaged-")).read_bytes()
        path.write_bytes(content[: len(content) // 2])
    done = run_without(["pyspng", "simplejpeg"], DECODE, tmp_path, *map(str, [*paths, *damaged]))
    assert done.stderr == ""
    with np.load(tmp_path / "work" / "decoded.npz") as decoded:
        for path in paths:
            pixels = decode(path.read_bytes(), min_side=112).pixels
            assert decoded[path.name].shape == pixels.shape
            assert np.abs(decoded[path.name].astype(int) - pixels).max() <= 3
    for path in damaged:
        with pytest.raises(DecodeError) as caught:
            decode(path.read_bytes(), min_side=112)
        assert f"{path.name} {caught.value.status} {caught.value}\n" in done.stdout


@pytest.mark.parametrize(
    ("code", "kind", "sentence"),
    [
        (
            "from digits.cli.runtime import require_flows; require_flows()",
            OperationsError,
            "a flow needs prefect, which is not installed: pip install 'digits[flows]'",
        ),
        (
            "from digits.training.backend import load_keras; load_keras()",
            ModelError,
            "training needs keras, which is not installed: pip install 'digits[train]'",
        ),
        (
            "from digits.pipeline import versions; versions.evaluate(None, None, 'mnist-sample')",
            ModelError,
            "an evaluation needs sklearn, which is not installed: pip install 'digits[train]'",
        ),
        (
            "import digits; digits.train(['mnist-sample'])",
            ModelError,
            "training needs keras, which is not installed: pip install 'digits[train]'",
        ),
        (
            "import digits; digits.read_table('t.parquet', as_records=True)",
            UsageError,
            "t.parquet: Parquet needs pyarrow, which is not installed: pip install 'digits[parquet]'",
        ),
        (
            "import digits; digits.read_table('t.csv')",
            UsageError,
            "a DataFrame needs pandas, which is not installed: pip install 'digits[pandas]'",
        ),
        (
            "from digits.maintenance.archives import ArchiveWriter; ArchiveWriter(None)",
            UsageError,
            "a backup needs pyarrow, which is not installed: pip install 'digits[parquet]'",
        ),
    ],
)
def test_a_missing_extra_is_one_sentence_with_the_command(
    tmp_path: Path, code: str, kind: type[Exception], sentence: str
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "prefect.yaml").write_text("name: digits\n")
    done = run_without(EXTRA_LIBRARIES, code, tmp_path)
    assert done.stderr.splitlines()[-1] == f"digits.errors.{kind.__name__}: {sentence}"


def test_a_folder_is_predicted_without_any_extra(tmp_path: Path) -> None:
    """Workers have none either. The folder is in no project, and the table is as with them."""
    artifacts = tmp_path / "artifacts"
    onnx = Store(artifacts).produce(Recipe("onnx", {}), write_model)
    Registry(Store(artifacts)).register(artifacts={"onnx": onnx.digest}, weights_sha256="w", facts=ModelFacts())
    scans = tmp_path / "work" / "scans"
    scans.mkdir(parents=True)
    for number in range(3):
        Image.fromarray(draw(number)).save(scans / f"{number}.png")
    options = f"predict scans --model 1 --out t.csv --json --artifacts {artifacts}"
    done = run_without(EXTRA_LIBRARIES, COMMAND, tmp_path, *options.split())
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 3
    digits.predict(scans, out=tmp_path / "t.csv", model="1", artifacts=artifacts)
    assert (tmp_path / "work" / "t.csv").read_bytes() == (tmp_path / "t.csv").read_bytes()
