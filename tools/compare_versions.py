"""Comparison of two versions of Digits: one seed, the same weights, tables and exit codes.

A restructuring must not change behaviour. This script drives a source tree through its command line and its files
alone, so it works on both sides of a move:

python -m tools.compare_versions record --tree OLD --command "python -c 'from flows.console import main; main()'" \
    --place WORK/old --out old.json
python -m tools.compare_versions record --tree NEW --command "python -c 'from digits.cli.main import main; main()'" \
    --place WORK/new --store WORK/old/own --out new.json
python -m tools.compare_versions compare old.json new.json

`record` trains two models with seed 42 on the bundled sample, then predicts four folders with them, and with the models
of `--store`: the artifact root that the other side trained, so that both sides also predict with identical models. Then
it runs commands for each documented exit code. `compare` prints each fact as equal or different and ends with exit code
1 if any is different.

A table has no times and no absolute paths, so all of its bytes are compared and nothing is masked. The hash without the
column `error` shows whether anything but a message changed. Not compared: code versions, times, and paths.
"""

import argparse
import csv
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SEED = 42
TRAININGS = {"mlp": ["--architecture", "mlp"], "compact": ["--architecture", "compact", "--epochs", "1"]}
"""Options of the two model versions, in the order of their numbers."""

FORMATS: Mapping[str, Sequence[str]] = {"csv": (), "jsonl": ("--probabilities", "--top-k", "3"), "parquet": ()}
SUMMARY = ("images", "predictions", "statuses", "skipped", "more_frames")
UNPRIVILEGED = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
"""Root without its privileges, so that the permissions of the hostile folder count."""

PATIENCE = 3600
DEAD_API = "http://127.0.0.1:9/api"
EXIT_CODES = {
    0: "done",
    1: "unexpected failure",
    2: "usage",
    3: "dataset",
    4: "artifact store",
    5: "registry",
    6: "model",
    7: "no Prefect server",
    130: "interrupted",
}
Facts = dict[str, Any]


@dataclass(frozen=True)
class Side:
    """A version of Digits that is driven through its command line.

    Args:
        command: command line of `digits` in that version.
        tree: root of its source tree, where the command runs.
        place: directory for all files of the comparison.
    """

    command: Sequence[str]
    tree: Path
    place: Path

    def environment(self) -> dict[str, str]:
        """Return an environment with the tree's code and without any settings of Prefect or Digits."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "DIGITS_"))}
        ours = {"PYTHONPATH": str(self.tree), "PYTHONWARNINGS": "ignore", "PREFECT_HOME": str(self.place / "prefect")}
        return {**kept, **ours, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}

    def run(
        self,
        *arguments: object,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        output: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run the command to its end; `output` is the file for its standard output instead of a pipe."""
        with closing(os.fdopen(os.open(output or os.devnull, os.O_WRONLY), "w")) as file:
            return subprocess.run(
                [*prefix, *self.command, *map(str, arguments)],
                cwd=self.tree,
                env={**self.environment(), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=file if output else subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                timeout=PATIENCE,
                check=False,
            )

    def result(self, *arguments: object, prefix: Sequence[str] = ()) -> Any:
        """Return what a command prints as JSON.

        Raises:
            SystemExit: the command failed.
        """
        done = self.run(*arguments, "--json", prefix=prefix)
        if done.returncode not in (0, 8):  # 8: something needs attention
            sys.exit(f"{shlex.join(map(str, arguments))} ended with {done.returncode}: {done.stderr[-2000:]}")
        return json.loads(done.stdout)


def sha256(content: bytes) -> str:
    """Return the SHA-256 of bytes as hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


# Weights


def train(side: Side, store: Path) -> Facts:
    """Train each model into an artifact root and return the hashes of what was made."""
    facts: Facts = {}
    for number, (name, options) in enumerate(TRAININGS.items(), 1):
        print_progress(f"training {name}")
        seed = ["--seed", str(SEED)]
        side.result("train", "--dataset", "mnist-sample", *options, *seed, "--artifacts", store)
        found = side.result("models", "show", str(number), "--artifacts", store)
        exported = Path(found["onnx"])
        facts |= {
            f"train.{name}.weights_sha256": found["weights_sha256"],
            f"train.{name}.accuracy": found["accuracy"],
            f"train.{name}.onnx_sha256": sha256((exported / "model.onnx").read_bytes()),
            f"train.{name}.spec_sha256": sha256((exported / "spec.json").read_bytes()),
            f"train.{name}.arrays_sha256": hash_folder(Path(found["arrays"]), "*.npy"),
        }
    return facts


def hash_folder(folder: Path, pattern: str = "**/*") -> str:
    """Return one hash over the names and contents of the readable files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob(pattern), key=os.fsencode):
        if path.is_file() and not path.is_symlink():
            digest.update(os.fsencode(path.relative_to(folder)) + b"\0" + sha256(path.read_bytes()).encode())
    return digest.hexdigest()


def code_versions(store: Path) -> dict[str, str]:
    """Return the version of the code that made each kind of artifact."""
    manifests = [json.loads(path.read_bytes()) for path in sorted(store.glob("*/*/manifest.json"))]
    return {made["recipe"]["kind"]: made["recipe"]["code"][:12] for made in manifests}


# Tables


def make_inputs(side: Side, store: Path) -> dict[str, Path]:
    """Make the folders to predict: the sample's test images twice, PngSuite, and the hostile folder."""
    from tests.support import data
    from tests.support.hostile_tree import Tree

    arrays = Path(side.result("models", "show", "1", "--artifacts", store)["arrays"])
    folders = {name: side.place / "inputs" / name for name in ("sample", "paper", "pngsuite", "hostile")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    for number, pixels in enumerate(np.load(arrays / "test_pixels.npy")):
        image = Image.fromarray(pixels)
        image.save(folders["sample"] / f"{number:04}.png")
        paper = Image.fromarray(255 - pixels).resize((84, 84), Image.Resampling.BICUBIC)
        paper.save(folders["paper"] / f"{number:04}.png")
    for name, content in data.contents("pngsuite").items():
        path = folders["pngsuite"] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return {**folders, "hostile": Tree.plant(folders["hostile"]).root}


def predict_all(side: Side, name: str, store: Path, inputs: Mapping[str, Path]) -> Facts:
    """Predict each folder with each model version of an artifact root, and return what the tables hold."""
    facts: Facts = {}
    for version, model in enumerate(TRAININGS, 1):
        for source, folder in inputs.items():
            print_progress(f"predicting {source} with {model} of the {name} store")
            for form in FORMATS if source == "sample" else ("csv",):
                table = side.place / "tables" / f"{name}-{model}-{source}.{form}"
                command = ["predict", folder, "--out", table, "--model", str(version), "--artifacts", store]
                prefix = UNPRIVILEGED if source == "hostile" and os.geteuid() == 0 else []
                summary = side.result(*command, *FORMATS[form], prefix=prefix)
                facts |= {f"table.{table.name}.{key}": value for key, value in facts_of(table, summary).items()}
    return facts


def facts_of(table: Path, summary: Mapping[str, Any]) -> Facts:
    """Return the hash of a table and, of a CSV table, its counts and its messages."""
    facts: Facts = {"sha256": sha256(table.read_bytes())}
    if table.suffix != ".csv":
        return facts
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    silent = [{name: cell for name, cell in row.items() if name != "error"} for row in rows]
    return {
        **facts,
        "sha256_without_error": sha256(json.dumps(silent).encode()),
        "errors": dict(sorted(Counter(row["error"] for row in rows if row["error"]).items())),
        **{name: summary[name] for name in SUMMARY},
    }


# Exit codes


@dataclass(frozen=True)
class Case:
    """A command line and the exit code that the documentation promises for it.

    Args:
        name: what the case shows.
        code: documented exit code.
        arguments: arguments of `digits`.
        environment: additional environment variables.
        output: file for the standard output.
    """

    name: str
    code: int
    arguments: Sequence[object]
    environment: Mapping[str, str] = field(default_factory=dict)
    output: Path | None = None


@dataclass(frozen=True)
class Inputs:
    """Files and artifact roots that the cases use.

    Args:
        place: directory of the files.
        store: intact artifact root. Cases that change it use a copy.
        images: folder of images.
    """

    place: Path
    store: Path
    images: Path

    def copy(self, name: str) -> Path:
        """Return a copy of the intact artifact root."""
        return Path(shutil.copytree(self.store, self.place / name))

    def file(self, name: str, content: str | bytes) -> Path:
        """Return a new file."""
        path = self.place / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def damaged(self, name: str, pattern: str) -> Path:
        """Return a copy of the artifact root with a changed byte in each file that matches."""
        root = self.copy(name)
        for path in root.glob(pattern):
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 0xFF
            path.write_bytes(content)
        return root

    def arrays(self, name: str, *, repeated: bool) -> Path:
        """Return an .npz dataset; with `repeated`, its test images are training images too."""
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (200, 28, 28), np.uint8)
        labels = np.arange(200, dtype=np.uint8) % 10
        path, test = self.place / name, slice(0, 100) if repeated else slice(100, 200)
        np.savez(path, x_train=pixels[:100], y_train=labels[:100], x_test=pixels[test], y_test=labels[test])
        return path


def cases(inputs: Inputs) -> Iterator[Case]:
    """Yield commands for each documented exit code."""
    yield from successes(inputs)
    yield from usage_errors(inputs)
    yield from dataset_errors(inputs)
    yield from store_errors(inputs)
    yield from registry_errors(inputs)
    yield from other_errors(inputs)


def successes(inputs: Inputs) -> Iterator[Case]:
    """Yield commands that succeed."""
    changing = ["--artifacts", inputs.copy("changing")]
    sound, out = ["--artifacts", inputs.store], inputs.place / "out.csv"
    image = next(inputs.images.glob("*.png"))
    yield Case("help", 0, ["--help"])
    yield Case("models", 0, ["models", *sound])
    yield Case("models of an empty store", 0, ["models", "--artifacts", inputs.place / "empty"])
    yield Case("models show champion", 0, ["models", "show", "champion", *sound])
    yield Case("predict an image", 0, ["predict", image, "--out", out, *sound])
    yield Case("inspect", 0, ["inspect", image, "--out", inputs.place / "inspected.png", *sound])
    yield Case("export a sheet", 0, ["review", out, "--export", inputs.place / "sheet.csv", *sound])
    yield Case("verify", 0, ["verify", *sound])
    yield Case("repair what is sound", 0, ["repair", *changing])
    yield Case("promote", 0, ["promote", "2", *changing])
    yield Case("roll back", 0, ["rollback", *changing])
    yield Case("janitor without a server", 0, ["janitor", *changing])
    yield Case("status without a server", 8, ["status", *changing])
    yield Case("down without a server", 0, ["down", *changing])


def usage_errors(inputs: Inputs) -> Iterator[Case]:
    """Yield invalid options, configuration files and paths."""
    sound = ["--artifacts", inputs.store]
    nothing = inputs.place / "nothing"
    text = inputs.file("text.png", "no picture")
    yield Case("no command", 2, [])
    yield Case("unknown command", 2, ["paint"])
    yield Case("unknown option", 2, ["models", "--colour"])
    yield Case("missing argument", 2, ["predict"])
    yield Case("argument of another type", 2, ["promote", "one"])
    yield Case("value out of bounds", 2, ["predict", inputs.images, "--top-k", "0", *sound])
    yield Case("unknown architecture", 2, ["train", "--architecture", "vgg", *sound])
    yield Case("missing configuration", 2, ["train", "--config", nothing, *sound])
    yield Case("unknown setting", 2, ["train", "--config", inputs.file("unknown.toml", "colour = 1\n"), *sound])
    yield Case("malformed configuration", 2, ["train", "--config", inputs.file("malformed.toml", "= 1\n"), *sound])
    yield Case("unknown data set", 2, ["train", "--dataset", nothing, *sound])
    yield Case("predict a missing folder", 2, ["predict", nothing, *sound])
    yield Case("unknown table format", 2, ["predict", inputs.images, "--out", inputs.place / "out.xls", *sound])
    yield Case("inspect a text file", 2, ["inspect", text, *sound])
    yield Case("review a missing table", 2, ["review", inputs.place / "nothing.csv", "--export", "x.csv", *sound])
    yield Case("unsupported error rate", 2, ["predict", inputs.images, "--max-error", "0.0000001", *sound])


def dataset_errors(inputs: Inputs) -> Iterator[Case]:
    """Yield datasets that are unavailable or must not be trained on."""
    store = ["--architecture", "mlp", "--artifacts", inputs.place / "untrained"]
    proxy = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    yield Case("damaged .npz", 3, ["train", "--dataset", inputs.file("damaged.npz", b"PK\3\4"), *store])
    yield Case("repeated images", 3, ["train", "--dataset", inputs.arrays("repeated.npz", repeated=True), *store])
    yield Case("no labels", 3, ["train", "--dataset", "reviewed", *store])
    yield Case("no network", 3, ["train", "--dataset", "mnist", *store], {**proxy, "PATH": "/nowhere"})


def store_errors(inputs: Inputs) -> Iterator[Case]:
    """Yield artifact roots that are damaged or cannot be written to."""
    out = ["--out", inputs.place / "store.csv"]
    model, record = (
        inputs.damaged("damaged model", "onnx/*/model.onnx"),
        inputs.damaged("damaged record", "registry/*/*1.json"),
    )
    missing = inputs.copy("missing")
    shutil.rmtree(missing / "onnx")
    yield Case("predict with a damaged model", 4, ["predict", inputs.images, *out, "--artifacts", model])
    yield Case("predict with a missing model", 4, ["predict", inputs.images, *out, "--artifacts", missing])
    yield Case("verify a damaged model", 4, ["verify", "--artifacts", model])
    yield Case("models with a damaged record", 4, ["models", "--artifacts", record])
    yield Case("repair a damaged record", 4, ["repair", "--artifacts", record])
    below_file = inputs.file("file", "") / "artifacts"
    yield Case("root below a file", 4, ["train", "--dataset", "mnist-sample", "--artifacts", below_file])


def registry_errors(inputs: Inputs) -> Iterator[Case]:
    """Yield model versions that do not exist."""
    sound, empty = ["--artifacts", inputs.store], ["--artifacts", inputs.place / "empty"]
    yield Case("show a missing version", 5, ["models", "show", "99", *sound])
    yield Case("show a version by no number", 5, ["models", "show", "best", *sound])
    yield Case("promote a missing version", 5, ["promote", "99", *sound])
    yield Case("promote the champion", 5, ["promote", "1", "--artifacts", only_first(inputs)])
    yield Case("roll back without a former champion", 5, ["rollback", *empty])
    yield Case("predict with a missing version", 5, ["predict", inputs.images, "--model", "99", *sound])
    yield Case("predict without a champion", 5, ["predict", inputs.images, *empty])


def only_first(inputs: Inputs) -> Path:
    """Return a copy of the artifact root whose champion is version 1."""
    root = inputs.copy("first")
    for path in (root / "registry" / "promotions").glob("*.json"):
        if path.name != "000001.json":
            path.unlink()
    return root


def other_errors(inputs: Inputs) -> Iterator[Case]:
    """Yield unusable models, missing Prefect servers and unexpected failures."""
    data = ["--dataset", inputs.arrays("small.npz", repeated=False), "--architecture", "mlp"]
    first = ["--artifacts", inputs.place / "first"]
    sound = ["--artifacts", inputs.store]
    yield Case("too many hidden layers", 6, ["train", *data, "--hidden", "8", "--hidden", "8", *first])
    yield Case("start from another network", 6, ["train", *data, "--hidden", "8", "--start", "champion", *first])
    yield Case("track without a server", 7, ["predict", inputs.images, "--track", *sound])
    yield Case("deploy without a server", 7, ["predict", inputs.images, "--deploy", *sound])
    yield Case("train with a dead server", 7, ["train", *data, *first], {"PREFECT_API_URL": DEAD_API})
    yield Case("full standard output", 1, ["models", *sound], output=Path("/dev/full"))


def exit_codes(side: Side, store: Path, images: Path) -> Facts:
    """Run each case, then one that is interrupted, and return the exit codes by the names of the cases."""
    print_progress("running commands for each exit code")
    place = side.place / "cases"
    place.mkdir()
    facts: Facts = {}
    for case in cases(Inputs(place, Path(shutil.copytree(store, place / "sound")), images)):
        done = side.run(*case.arguments, environment=case.environment, output=case.output)
        add_exit_code(facts, case.name, done.returncode, case.code)
    add_exit_code(facts, "interrupt", interrupted(side, images, place / "sound"), 130)
    return facts


def add_exit_code(facts: Facts, name: str, found: int, documented: int) -> None:
    """Add an exit code to the facts, and print it if it is not the documented one."""
    facts[f"exit.{name}"] = found
    if found != documented:
        print_progress(f"{name}: found {found}, documented is {documented} ({EXIT_CODES[documented]})")


def interrupted(side: Side, images: Path, store: Path) -> int:
    """Interrupt a prediction that waits for a list of files on its standard input; return its exit code."""
    command = [*side.command, "predict", str(images), "--files-from", "-", "--artifacts", str(store)]
    with subprocess.Popen(
        command, cwd=side.tree, env=side.environment(), stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        if process.stderr:
            process.stderr.readline()  # the line that reports a prediction without Prefect
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        process.wait(60)
        return process.returncode


# JSON


def json_keys(side: Side, store: Path, images: Path) -> Facts:
    """Return the top-level keys of what commands print with `--json`."""
    print_progress("reading JSON keys")
    root, out = shutil.copytree(store, side.place / "keys"), side.place / "keys.csv"
    commands: dict[str, list[object]] = {
        "models": ["models"],
        "models show": ["models", "show", "1"],
        "predict": ["predict", images, "--out", out],
        "inspect": ["inspect", next(images.glob("*.png"))],
        "review": ["review", out, "--export", side.place / "keys-sheet.csv"],
        "verify": ["verify"],
        "repair": ["repair"],
        "promote": ["promote", "2"],
        "rollback": ["rollback"],
        "status": ["status"],
        "janitor": ["janitor"],
    }
    facts: Facts = {}
    for name, command in commands.items():
        found = side.result(*command, "--artifacts", root)
        facts[f"json.{name}"] = sorted(found[0] if isinstance(found, list) else found)
    return facts


# The two commands


def record(options: argparse.Namespace) -> int:
    """Record the facts of one side as JSON and print them."""
    place = options.place.absolute()
    place.mkdir(parents=True)
    for name in ("tables", "prefect"):
        (place / name).mkdir()
    program, *rest = shlex.split(options.command)
    side, own = Side([shutil.which(program) or program, *rest], options.tree.absolute(), place), place / "own"
    facts = train(side, own)
    side.run("promote", "1", "--artifacts", own)  # fails if version 1 is the champion already, which is fine
    shared = Path(shutil.copytree(options.store or own, place / "shared"))
    inputs = make_inputs(side, shared)
    facts |= {f"input.{name}": hash_folder(folder) for name, folder in inputs.items() if name != "hostile"}
    facts |= predict_all(side, "own", own, inputs) | predict_all(side, "shared", shared, inputs)
    facts |= exit_codes(side, own, inputs["sample"]) | json_keys(side, own, inputs["sample"])
    about = {"tree": str(side.tree), "command": options.command, "code": code_versions(own)}
    options.out.write_text(json.dumps({"about": about, "facts": facts}, indent=1, sort_keys=True) + "\n", "utf-8")
    for name, value in facts.items():
        print(f"{name}: {value}")
    return 0


def compare(options: argparse.Namespace) -> int:
    """Print each fact as equal or different; return 1 if any is different."""
    first, second = (json.loads(path.read_bytes())["facts"] for path in (options.first, options.second))
    different = 0
    for name in sorted(first.keys() | second.keys()):
        if first.get(name) == second.get(name):
            print(f"equal      {name}")
            continue
        different += 1
        print(f"different  {name}\n           {first.get(name)}\n           {second.get(name)}")
    print(f"{len(first.keys() | second.keys()) - different} equal, {different} different")
    return int(different > 0)


def print_progress(text: str) -> None:
    """Print progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description="Compare two versions of Digits.")
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("record", help="record the facts of one version")
    one.add_argument("--tree", type=Path, required=True, help="root of its source tree")
    one.add_argument("--command", required=True, help="its command line, such as digits")
    one.add_argument("--place", type=Path, required=True, help="new directory for models, images and tables")
    one.add_argument("--store", type=Path, help="artifact root that the other version trained (its PLACE/own)")
    one.add_argument("--out", type=Path, required=True, help="JSON file to write")
    one.set_defaults(run=record)
    both = commands.add_parser("compare", help="compare two recorded files")
    both.add_argument("first", type=Path)
    both.add_argument("second", type=Path)
    both.set_defaults(run=compare)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `record` or `compare`; return the exit code."""
    options = parse(arguments)
    code: int = options.run(options)
    return code


if __name__ == "__main__":
    sys.exit(main())
