"""Images a second of `digits predict` beside the alternatives, and beside what one could do at best.

python -m benchmarks prediction                   # a few minutes on two cores
python -m benchmarks prediction --timm            # with timm too, in an environment of its own (fetches torch)
python -m benchmarks prediction --timm torch==2.13.0+cpu torchvision==0.28.0

Everything is measured in turn, round by round, on the same files: real digits as PNG, 28x28. Compare the ratios; the
rates are those of a machine and an hour. What counts:

- ours, as a library and as a Prefect flow on a running server: images over the time from the beginning of the
  first shard to the table's rename, as the command reports it;
- to first row: from the start of the command's process until the first shard is committed (its rows are on the disk);
- whole: from the start of the command's process to its end;
- the ceiling: the processes over the sum of the least that the steps cost one of them, with as many processes at it
  as there are CPUs (`benchmarks/ceiling.py`);
- the tutorial's loop: `model.predict` for each image in turn, a sample of 200 images;
- timm: its loader with two workers, `test_resnet` at 32x32; `working` from the loader's making to the table, `whole`
  from the start of its process to its end.

Networks: the champion of the artifact root (`make demo` makes one), and a smaller one with random weights, on which the
time does not depend. Operations are two for each weight applied, of convolutions and dense layers.
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

from digits.prediction.pool import usable_cpus
from digits.settings import artifact_root
from tests.support.command import DIGITS
from tests.support.networks import champion_files, copy_champion, operations, small_store, weights_in
from tests.support.pictures import write_images
from tests.support.server import prefect_server, untracked

Measure = Callable[[Path], dict[str, float]]
"""From a folder of images to images a second, by what was counted."""

_GLANCE = 0.002
_SINGLE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Run:
    """What a run of ours gave: images a second, the seconds to the first row, and those of the whole process."""

    rate: float
    first_row: float
    whole: float


def run_ours(images: Path, root: Path, environment: Mapping[str, str]) -> Run:
    """Run the command; tracked, where the environment names a server."""
    table = root / "table.csv"
    command = [DIGITS, "predict", str(images), "--out", str(table), "--artifacts", str(root), "--json"]
    tracked = ["--track"] if "PREFECT_API_URL" in environment else []
    started = time.perf_counter()
    with (root / "printed").open("w+b") as printed, (root / "said").open("w+b") as said:
        process = subprocess.Popen([*command, *tracked], env=dict(environment), stdout=printed, stderr=said)
        while not any(root.glob("work/predictions/[0-9a-f]*/parts/*.json")) and process.poll() is None:
            time.sleep(_GLANCE)
        first_row = time.perf_counter() - started
        if process.wait() != 0:
            sys.exit(f"{' '.join(command)} failed:\n{(root / 'said').read_text()}")
        whole = time.perf_counter() - started
    return Run(json.loads((root / "printed").read_bytes())["images_per_second"], first_row, whole)


def steps_of(images: Path, root: Path) -> dict[str, float]:
    """Measure the least that each step of an image costs, in a fresh process a CPU, all at once; microseconds."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.ceiling", str(images), str(root)]
    with ThreadPoolExecutor() as pool:
        running = [pool.submit(_output, command, {**os.environ, **_SINGLE}) for _ in range(usable_cpus())]
        found: list[dict[str, float]] = [json.loads(process.result()) for process in running]
    return {name: mean(steps[name] for steps in found) for name in found[0]}


def tutorial_rate(images: Path, root: Path) -> dict[str, float]:
    """Measure the tutorial's loop, in a fresh process."""
    rate = _output([sys.executable, "-W", "ignore", "-m", "benchmarks.tutorial", str(images), str(root)])
    return {"the tutorial's loop": float(rate)}


def _output(command: list[str], environment: Mapping[str, str] = os.environ) -> str:
    result = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{result.stderr[-3000:]}")
    return result.stdout.splitlines()[-1]


def timm_runner(place: Path, requirements: Sequence[str]) -> Measure:
    """Install timm into an environment of its own; give what measures it."""
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
    """The contestants, and what each gave in each round."""

    def __init__(self, images: Path, roots: Mapping[str, Path]) -> None:
        self._images, self._roots = images, roots
        self.ours: dict[tuple[str, str], list[Run]] = {}
        self.steps: dict[str, list[dict[str, float]]] = {}
        self.others: dict[str, list[float]] = {}

    def round(self, environments: Mapping[str, Mapping[str, str]], others: Sequence[Measure]) -> None:
        """Measure everything once."""
        for network, root in self._roots.items():
            for route, environment in environments.items():
                self.ours.setdefault((network, route), []).append(run_ours(self._images, root, environment))
            self.steps.setdefault(network, []).append(steps_of(self._images, root))
        for name, rate in ((name, rate) for measure in others for name, rate in measure(self._images).items()):
            self.others.setdefault(name, []).append(rate)

    def report(self) -> None:
        """Print medians, and the ratios that count."""
        for network, root in self._roots.items():
            onnx = champion_files(root).onnx
            print(f"\n{network}: {operations(onnx) / 1e6:.1f} MFLOP an image, {weights_in(onnx):,} weights")
            self._report_ours(network)
        for name, rates in self.others.items():
            print(f"\n{name}: {median(rates):,.0f} images a second; as many times faster are we:")
            for (network, route), runs in self.ours.items():
                ratio = median(run.rate / rate for run, rate in zip(runs, rates, strict=True))
                print(f"  {network}, {route:<8} {ratio:9.1f}")

    def _report_ours(self, network: str) -> None:
        ceilings = [usable_cpus() * 1e6 / sum(steps.values()) for steps in self.steps[network]]
        for name in self.steps[network][0]:
            print(f"  {name:<14} {median(steps[name] for steps in self.steps[network]):8.1f} microseconds an image")
        print(f"  {'ceiling':<14} {median(ceilings):8,.0f} images a second with {usable_cpus()} processes")
        for (of, route), runs in self.ours.items():
            if of == network:
                share = median(run.rate / ceiling for run, ceiling in zip(runs, ceilings, strict=True))
                rate, first_row = median(run.rate for run in runs), median(run.first_row for run in runs)
                print(f"  {route:<14} {rate:8,.0f} images a second, {share:.0%} of the ceiling", end="")
                print(f", {first_row:.2f} s to first row, whole {median(run.whole for run in runs):.2f} s")


def main() -> None:
    """Print the table."""
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
    parser = argparse.ArgumentParser(description="Compare the rates of prediction.")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--artifacts", type=Path, help="the artifact root with the champion")
    parser.add_argument(
        "--timm", nargs="*", metavar="REQUIREMENT", help="measure timm, installed by these requirements besides timm"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
