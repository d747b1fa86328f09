"""What the benchmarks share: options, data, interleaved repeats, and a table that names the machine."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

import resnet_tutorial
from resnet_tutorial import data, models, runtime
from resnet_tutorial.files import atomic
from resnet_tutorial.records import Measurement

QUICK = "quick: for correctness only, not a measurement"


def positive(text: str) -> int:
    """Read an option's whole number of 1 or more."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def fraction(text: str) -> float:
    """Read an option's number from 0 up to, not including, 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 up to 1")
    return value


def options(description: str | None) -> argparse.ArgumentParser:
    """Make a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=("sample", "cifar10"), default="cifar10", help="default: cifar10")
    parser.add_argument("--repeats", type=positive, help="rounds, or seeds (default: 3; with --quick 1)")
    parser.add_argument("--threads", type=positive, help="threads of torch (default: torch's own choice)")
    parser.add_argument("--device", help="cpu, cuda, ... (default: the fastest there is)")
    parser.add_argument(
        "--images", type=positive, metavar="N", help="only the first N training images (default: all)"
    )
    parser.add_argument("--record", type=Path, metavar="DIR", help="also write the table there, as JSON")
    parser.add_argument(
        "--quick", action="store_true", help="a small part of the sample and a tiny network: only a check"
    )
    return parser


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, data.Split, data.Split]:
    """Parse, apply ``--threads``, and refuse at once what is not on this machine.

    Returns:
        The options, the training and the test images. ``repeats`` has its default and ``device`` is a
        ``torch.device``. Added is ``load``: how busy the machine was before the benchmark began (``None``
        where that is unknown).
    """
    args = parser.parse_args(argv)
    args.command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    args.load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    args.repeats = args.repeats or (1 if args.quick else 3)
    if args.quick:
        args.data = "sample"
    try:
        args.device = runtime.pick_device(args.device)
        train, test = load(args.data, quick=args.quick)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    if args.images:
        train = train.subset(range(min(args.images, len(train))))
    if args.threads:
        torch.set_num_threads(args.threads)
    return args, train, test


def add_keep(parser: argparse.ArgumentParser, name: str) -> None:
    """Add the option of a benchmark of many runs that can go on when interrupted, see :class:`Finished`."""
    help = "of finished runs, not made again: delete it when the code changes (default: %(default)s)"
    parser.add_argument("--keep", type=Path, metavar="FILE", default=Path(f"runs/{name}.json"), help=help)


class Finished:
    """The results of finished runs, kept in the file of ``--keep``; with ``--quick`` nothing is kept."""

    def __init__(self, parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
        """Read what an earlier call has finished, and refuse a file that holds something else."""
        self.path = None if args.quick else args.keep
        self.results: dict[str, Any] = {}
        try:
            if self.path is not None and self.path.exists():
                self.results = dict(json.loads(self.path.read_text(encoding="utf-8")))
        except (OSError, TypeError, ValueError):
            parser.error(f"{self.path} does not hold finished runs: delete it, or name another file")
        self.found = set(self.results)
        self.used = 0

    def __call__(self, settings: Sequence[object], make: Callable[[], Any]) -> Any:
        """Return the result of the run of these settings, from the file if it is there; all as JSON."""
        key = json.dumps(settings)
        self.used += key in self.found
        if key not in self.results:
            self.results[key] = make()
            if self.path is not None:
                with atomic(self.path, parents=True) as file:
                    file.write(json.dumps(self.results, indent=1, allow_nan=False).encode())
        return self.results[key]

    def notes(self) -> list[str]:
        """Return a sentence if runs of an earlier call were used."""
        return [f"Of an earlier, interrupted call: {self.used} of the runs."] if self.used else []


def load(name: str, *, quick: bool) -> tuple[data.Split, data.Split]:
    """Load training and test images; of each class only 16 and 8 if ``quick``.

    Raises:
        FileNotFoundError: If CIFAR-10 is not on the disk.
        ValueError: If it is damaged.
    """
    train, test = data.load_cifar10() if name == "cifar10" else data.load_sample()
    return (train.per_class(16), test.per_class(8)) if quick else (train, test)


def network(name: str, *, quick: bool) -> models.ResNet:
    """Build the network, always with the same initial weights; a tiny one if ``quick``."""
    runtime.seed_everything(0)
    return models.create("resnet8", width=4) if quick else models.create(name)


def precisions(device: torch.device) -> list[str]:
    """List ``fp32``, and the mixed precision that the device has hardware for, whether it pays or not."""
    if device.type == "cpu":
        return ["fp32", "bf16"] if runtime.has_native_bf16() else ["fp32"]
    mixed = {None: [], torch.bfloat16: ["bf16"], torch.float16: ["fp16"]}
    return ["fp32", *mixed[runtime.pick_precision(device)]]


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told; without it a clock stops too early on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleave(variants: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Run all variants once a round, every other round backwards, so that a slow drift favours none.

    Returns:
        For each variant what its calls returned, by round.
    """
    results: dict[str, list[float]] = {name: [] for name in variants}
    for i in range(repeats):
        for name in list(variants)[:: -1 if i % 2 else 1]:
            results[name].append(variants[name]())
    return results


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> list[str]:
    """Make two cells: the ratio of the medians, and the range of the ratios within the rounds."""
    pairs = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return [f"{median(numerators) / median(denominators):.2f}", f"{min(pairs):.2f} to {max(pairs):.2f}"]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Make a Markdown table, first column to the left and the others to the right.

    Raises:
        ValueError: If a row has another number of cells than the header.
    """
    lines = [list(header), [":--"] + ["--:"] * (len(header) - 1), *([str(cell) for cell in r] for r in rows)]
    if any(len(line) != len(header) for line in lines):
        raise ValueError(f"every row needs {len(header)} cells: {', '.join(header)}")
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(device: torch.device) -> str:
    """Name the hardware and the versions, in one line."""
    about, host = runtime.describe(device), runtime.describe(torch.device("cpu"))
    where = host["device"] if device.type == "cpu" else f"{about['device']}, beside {host['device']}"
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torchvision", "pillow"))
    return (
        f"{where}, cores: {host['cores']}, threads: {host['threads']}, {host['platform']}; Python "
        f"{host['python']}, torch {host['torch']}, {versions}, resnet_tutorial {resnet_tutorial.__version__}"
    )


def place(device: torch.device) -> str:
    """Name the kind of device, such as ``cuda`` or ``cpu-amx``: speeds on two kinds are two records."""
    instructions = str(runtime.describe(device)["device"]).partition(" with ")[2]
    return "-".join([device.type, *instructions.lower().split()])


def report(
    title: str,
    args: argparse.Namespace,
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    name: str,
    how: str,
    notes: Sequence[str] = (),
) -> None:
    """Print a benchmark's result as Markdown, and write it with ``--record``.

    Args:
        title: What was measured.
        args: From :func:`parse`.
        header: The table's columns.
        rows: The table's cells.
        name: What the file of the record is called.
        how: How the runs were made, such as "medians over interleaved rounds".
        notes: Sentences below the table.
    """
    print(f"### {title}\n")
    if args.quick:
        print(f"**{QUICK}**\n")
    load = "" if args.load is None else f" Load average before the start: {args.load:.2f}."
    how = f"{how[0].upper()}{how[1:]}.{load}"
    rows = [list(row) for row in rows]
    print(f"{machine(args.device)}.\nData: {args.data}. {how}\n")
    print(markdown_table(header, rows))
    for note in notes:
        print(f"\n{note}")
    if args.record is not None:
        if args.quick:
            raise SystemExit("--quick is no measurement: leave it out to record one")
        record = Measurement(
            name=name,
            command=args.command,
            setup=runtime.describe(args.device) | {"data": args.data},
            title=title,
            columns=list(header),
            rows=rows,
            notes=[how, *notes],
        )
        print(f"\nRecorded in {record.save(args.record)}.")
