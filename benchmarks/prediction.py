"""Throughput of `digits predict`, compared with other ways to predict and with the minimum cost of the steps.

python -m benchmarks prediction                   # a few minutes on two cores
python -m benchmarks prediction --timm            # with timm, installed with torch into an environment of its own
python -m benchmarks prediction --timm torch==2.13.0+cpu torchvision==0.28.0

Each round measures everything in turn, on the same files: real digits as PNG files of 28x28 pixels. Rates depend on the
machine and the hour, so compare the ratios. What the figures count:

- library, flow: images per second of `digits predict` without Prefect and as a flow on a running server, as the command
  reports them: from the start of the first shard to the rename of the table;
- to first row: seconds from the start of the process until the first shard is committed, with its rows on the disk;
- whole: seconds from the start of the process to its end;
- ceiling: the rate at which the steps of the engine alone would be done, by their CPU time. One process per CPU
  measures them at the same time (`benchmarks/ceiling.py`);
- the tutorial's loop: `model.predict` for each image in turn, for 200 images;
- timm: its loader with two workers and `test_resnet` at 32x32 pixels. `working` counts from the creation of the loader
  to the end of the table, `whole` from the start of the process to its end.

There are two networks: the champion of the artifact root (`make demo` trains one), and a smaller one with random
weights, which do not affect the time. A network's operations are two for each weight that is applied in a convolution
or a dense layer.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

from benchmarks.ceiling import highest_rate
from digits.prediction.pool import usable_cpus
from digits.settings import artifact_root
from tests.support.command import DIGITS
from tests.support.networks import champion_files, copy_champion, count_operations, count_weights, small_store
from tests.support.pictures import write_images
from tests.support.server import prefect_server, untracked

Measure = Callable[[Path], dict[str, float]]
"""Function from a folder of images to the images per second of each thing that it measures."""

_POLL_INTERVAL = 0.002
_SINGLE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Run:
    """Result of one `digits predict`.

    Args:
        rate: images per second, as the command reports them.
        first_row: seconds from the start of the process to the first committed shard.
        whole: seconds from the start of the process to its end.
    """

    rate: float
    first_row: float
    whole: float


def run_predict(images: Path, root: Path, environment: Mapping[str, str]) -> Run:
    """Run `digits predict`, as a flow if the environment names a Prefect server."""
    table = root / "table.csv"
    command = [DIGITS, "predict", str(images), "--out", str(table), "--artifacts", str(root), "--json"]
    tracked = ["--track"] if "PREFECT_API_URL" in environment else []
    started = time.perf_counter()
    with (root / "stdout").open("w+b") as stdout, (root / "stderr").open("w+b") as stderr:
        process = subprocess.Popen([*command, *tracked], env=dict(environment), stdout=stdout, stderr=stderr)
        while not any(root.glob("work/predictions/[0-9a-f]*/parts/*.json")) and process.poll() is None:
            time.sleep(_POLL_INTERVAL)
        first_row = time.perf_counter() - started
        if process.wait() != 0:
            sys.exit(f"{' '.join(command)} failed:\n{(root / 'stderr').read_text()}")
        whole = time.perf_counter() - started
    return Run(json.loads((root / "stdout").read_bytes())["images_per_second"], first_row, whole)


def measure_steps(images: Path, root: Path, *options: str) -> dict[str, float]:
    """Return the microseconds per image of each step, averaged over one new process per CPU, all at the same time."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.ceiling", str(images), str(root), *options]
    with ThreadPoolExecutor() as pool:
        running = [pool.submit(_output, command, {**os.environ, **_SINGLE_THREAD}) for _ in range(usable_cpus())]
        found: list[dict[str, float]] = [json.loads(process.result()) for process in running]
    return {name: mean(steps[name] for steps in found) for name in found[0]}


def tutorial_rate(images: Path, root: Path) -> dict[str, float]:
    """Return the images per second of the tutorial's loop in a new process."""
    rate = _output([sys.executable, "-W", "ignore", "-m", "benchmarks.tutorial", str(images), str(root)])
    return {"the tutorial's loop": float(rate)}


def _output(command: list[str], environment: Mapping[str, str] = os.environ) -> str:
    result = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{result.stderr[-3000:]}")
    return result.stdout.splitlines()[-1]


def timm_runner(place: Path, requirements: Sequence[str]) -> Measure:
    """Install timm into a new virtual environment, and return the function that measures it."""
    print("installing timm ...", flush=True)
    venv.create(place, with_pip=True)
    python = str(place / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
    script = str(Path(__file__).with_name("timm_inference.py"))

    def measure(images: Path) -> dict[str, float]:
        started = time.perf_counter()
        working = float(_output([python, "-W", "ignore", script, str(images)]))
        whole = time.perf_counter() - started
        return {"timm, working": working, "timm, whole": sum(1 for _ in images.iterdir()) / whole}

    return measure


class Comparison:
    """Results of each round, for `digits predict`, for the minimum costs and for the other ways to predict."""

    def __init__(self, images: Path, roots: Mapping[str, Path]) -> None:
        self._images, self._roots = images, roots
        self.runs: dict[tuple[str, str], list[Run]] = {}
        self.steps: dict[str, list[dict[str, float]]] = {}
        self.others: dict[str, list[float]] = {}

    def round(self, environments: Mapping[str, Mapping[str, str]], others: Sequence[Measure]) -> None:
        """Measure everything once.

        Args:
            environments: environment variables of each way to run `digits predict`.
            others: measurements of the other ways to predict.
        """
        for network, root in self._roots.items():
            for route, environment in environments.items():
                self.runs.setdefault((network, route), []).append(run_predict(self._images, root, environment))
            self.steps.setdefault(network, []).append(measure_steps(self._images, root))
        for name, rate in ((name, rate) for measure in others for name, rate in measure(self._images).items()):
            self.others.setdefault(name, []).append(rate)

    def report(self) -> None:
        """Print the medians over all rounds, and the ratios between them."""
        for network, root in self._roots.items():
            onnx = champion_files(root).onnx
            print(f"\n{network}: {count_operations(onnx) / 1e6:.1f} MFLOP per image, {count_weights(onnx):,} weights")
            self._report_network(network)
        for name, rates in self.others.items():
            print(f"\n{name}: {median(rates):,.0f} images per second; `digits predict` is faster by a factor of")
            for (network, route), runs in self.runs.items():
                ratio = median(run.rate / rate for run, rate in zip(runs, rates, strict=True))
                print(f"  {network}, {route:<8} {ratio:9.1f}")

    def _report_network(self, network: str) -> None:
        ceilings = [highest_rate(steps, usable_cpus()) for steps in self.steps[network]]
        for name in self.steps[network][0]:
            print(f"  {name:<20} {median(steps[name] for steps in self.steps[network]):8.1f} microseconds per image")
        print(f"  {'ceiling':<20} {median(ceilings):8,.0f} images per second with {usable_cpus()} processes")
        for (measured, route), runs in self.runs.items():
            if measured == network:
                share = median(run.rate / ceiling for run, ceiling in zip(runs, ceilings, strict=True))
                rate, first_row = median(run.rate for run in runs), median(run.first_row for run in runs)
                print(f"  {route:<20} {rate:8,.0f} images per second, {share:.0%} of the ceiling", end="")
                print(f", {first_row:.2f} s to first row, whole {median(run.whole for run in runs):.2f} s")


def main() -> None:
    """Print the comparison."""
    options = _options()
    with tempfile.TemporaryDirectory() as name, prefect_server(Path(name) / "server") as tracked:
        place = Path(name)
        write_images(place / "images", options.images)
        roots = {
            "champion": copy_champion(artifact_root(options.artifacts), place / "champion"),
            "small, with random weights": small_store(place / "small"),
        }
        others: list[Measure] = [lambda images: tutorial_rate(images, roots["champion"])]
        if options.timm is not None:
            others.append(timm_runner(place / "timm", ["timm", *options.timm]))
        comparison = Comparison(place / "images", roots)
        for _ in range(options.rounds):
            comparison.round({"library": untracked(place / "home"), "flow": tracked}, others)
        print(f"{options.images:,} images, medians of {options.rounds} rounds")
        comparison.report()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare `digits predict` with other ways to predict.")
    parser.add_argument("--images", type=int, default=20_000, help="number of images (default: 20000)")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default: 3)")
    parser.add_argument("--artifacts", type=Path, help="artifact root with a champion")
    parser.add_argument(
        "--timm", nargs="*", metavar="REQUIREMENT", help="measure timm too; additional requirements to install it with"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
