"""Two processes against one at the same global batch: the same loss curve, and the time of each.

Each of two processes gets half of the threads, so that both sides use the same cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from common import interleave, options, parse, positive, report

COMMAND = ("-m", "resnet_tutorial", "train")


def train(folder: Path, processes: int, arguments: Sequence[str], *, threads: int) -> list[dict]:
    """Run the command line, under torchrun if there is more than one process; return the history's rows."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    launcher = torchrun if processes > 1 else []
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, threads // processes))}
    if processes > 1 and "GLOO_SOCKET_IFNAME" not in os.environ:
        environment |= {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    command = [sys.executable, *launcher, *COMMAND, *arguments, "--out", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the training failed:\n{done.stderr[-2000:]}")
    return json.loads((folder / "history.json").read_text(encoding="utf-8"))["rows"]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = options(__doc__)
    parser.add_argument("--epochs", type=positive, default=3, help="length of each run (default: 3)")
    args, _, _ = parse(parser, argv)
    if args.device.type != "cpu":
        parser.error("this compares processes on the CPU: give --device cpu")
    threads = args.threads or os.cpu_count() or 1
    arguments = ["--data", args.data, "--device", "cpu", "--precision", "fp32", "--recipe", "quick"]
    arguments += ["--epochs", str(args.epochs), "--model", "resnet8" if args.quick else "resnet20"]

    rows: dict[int, list[dict]] = {}
    with tempfile.TemporaryDirectory() as folder:

        def run(processes: int) -> float:
            rows[processes] = train(Path(folder) / str(processes), processes, arguments, threads=threads)
            return rows[processes][-1]["seconds"]

        seconds = interleave({str(n): lambda n=n: run(n) for n in (1, 2)}, args.repeats)

    cells = []
    for n in (1, 2):
        for row in rows[n]:
            cells.append([n, row["epoch"], *(round(row[key], 4) for key in ("train_loss", "val_loss"))])
            last = row["epoch"] == args.epochs
            cells[-1].append(round(median(seconds[str(n)]), 1) if last else "-")
    report(
        "One process and two, the same global batch",
        args,
        ("processes", "epoch", "training loss", "validation loss", "seconds"),
        cells,
        name="processes-cpu",
        how=f"recipe quick, {arguments[-1]}, {threads} threads in all; seconds of the whole run: median of "
        f"{args.repeats} interleaved rounds",
        notes=[
            "The processes see the same batches in the same order with the same augmentation. Their training "
            "losses differ a little, since each normalises its half of a batch by that half's own statistics;"
            " the validation losses use running statistics, which rest on few steps after the first epoch, "
            "and may differ more.",
        ],
    )


if __name__ == "__main__":
    main()
