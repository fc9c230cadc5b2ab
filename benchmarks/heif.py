"""HEIC and AVIF under the limits of a worker: seconds and memory of large files, and what damaged files do.

python -m benchmarks heif [--damaged 500]        # needs pip install 'digits[heif]'

A picture with noise is encoded in several sizes; the largest has nearly as many pixels as `--max-pixels` allows. Each
file is decoded in a process of its own with a worker's limits of time and memory; the damaged files follow in one. The
exit code is 1 if a large file ends its process, or a damaged one reaches the limit of time.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = ((640, 480), (4032, 3024), (5712, 4284), (7000, 7000))
SECONDS = 10.0
KINDS = {"HEIF": ".heic", "AVIF": ".avif"}
_DECODE = """
import json, re, sys, time
from digits.images.decode import DecodeError, decode
from digits.images.formats import import_reader
from digits.images.normalize import opencv
from digits.model.onnx_model import load_runtime
from digits.prediction.limits import ImageLimits, open_position_file
load_runtime(), opencv(), import_reader("HEIF"), import_reader("AVIF")
position = open_position_file()
limits = ImageLimits(position.fileno())
def memory(name): return int(re.search(name + r":\\s*(\\d+)", open("/proc/self/status").read())[1])
limits.limit_memory()
for path in sys.argv[2:]:
    content, before, started, status = open(path, "rb").read(), memory("VmRSS"), time.time(), "ok"
    limits.begin_image(0, float(sys.argv[1]))
    try:
        decode(content, others=("HEIF", "AVIF"))
    except DecodeError as error:
        status = error.status
    print(json.dumps([status, time.time() - started, (memory("VmHWM") - before) / 1024]), flush=True)
"""
Result = tuple[str, float, float]


def decode_limited(paths: list[Path]) -> Iterator[Result]:
    """Decode files; yield status, seconds and growth of the memory in MiB. A process that dies costs one file."""
    while paths:
        command = [sys.executable, "-c", _DECODE, str(SECONDS), *map(str, paths)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        results: list[Result] = [tuple(json.loads(line)) for line in done.stdout.splitlines()]
        yield from results
        if len(results) < len(paths):
            yield "timeout" if done.returncode == -14 else "crashed", SECONDS, 0  # noqa: PLR2004 - SIGALRM
        paths = paths[len(results) + 1 :]


def encode(path: Path, kind: str, size: tuple[int, int]) -> Path:
    """Encode a picture of a thick line on paper with noise."""
    width, height = size
    pixels = np.random.default_rng(0).integers(230, 241, (height, width), np.uint8)
    pixels[height // 4 : 3 * height // 4, width // 2 : width // 2 + width // 12] -= 200
    options = {"enc_params": {"preset": "ultrafast"}} if kind == "HEIF" else {"speed": 10}
    Image.fromarray(pixels).convert("RGB").save(path, kind, quality=50, **options)
    return path


def damage(path: Path, count: int) -> Iterator[Path]:
    """Write copies of a file with three other bytes each, half of them cut off."""
    random, content = np.random.default_rng(0), path.read_bytes()
    for number in range(count):
        damaged = bytearray(content)
        for place in random.integers(8, len(content), 3):
            damaged[place] = random.integers(256)
        copy = path.with_name(f"{path.stem}-{number}{path.suffix}")
        copy.write_bytes(damaged[: random.integers(20, len(content)) if number % 2 else None])
        yield copy


def main() -> int:
    """Print the results; return 1 if a limit was reached."""
    parser = argparse.ArgumentParser(description="Decode HEIC and AVIF under the limits of a worker.")
    parser.add_argument("--damaged", type=int, default=500, help="number of damaged files of each format")
    arguments = parser.parse_args()
    from digits.images.formats import import_reader

    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for kind, ending in KINDS.items():
            import_reader(kind)
            for width, height in SIZES:
                path = encode(Path(folder) / f"{width}{ending}", kind, (width, height))
                ((status, seconds, growth),) = decode_limited([path])
                failed += status not in ("ok", "too-large")
                print(f"{kind} {width:,} x {height:,}: {status}, {seconds:.2f} s, {growth:.0f} MiB", flush=True)
            results = list(decode_limited([*damage(Path(folder) / f"{SIZES[0][0]}{ending}", arguments.damaged)]))
            counts = Counter(status for status, *_ in results)
            failed += counts["timeout"]
            slowest = max(seconds for _, seconds, _ in results)
            print(f"{kind}, {len(results)} damaged files: {dict(counts)}, slowest {slowest:.2f} s", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
