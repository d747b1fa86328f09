"""Peak resident memory of a full run: `fit` against the textbook loop.

Every run has a fresh process of its own and does everything that a run does: loads the libraries and the
data, trains with validation after every epoch, saves, and measures the last weights on the test images. The
textbook's loader has no workers, whose memory would come on top. On a GPU, its peak is shown as well.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import torch
from common import interleave, load, network, options, parse, positive, precisions, ratio, report

from resnet_tutorial.evaluation import predict
from resnet_tutorial.training import RECIPES, fit

MIB = 1024**2


def peak_resident() -> int:
    """Return the bytes of the largest resident memory that this process has had.

    Raises:
        OSError: If the system does not tell.
    """
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux the peak that getrusage knows outlives exec: a child would inherit that of its parent.
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        raise OSError("this system does not tell a process's peak memory: use Linux or macOS") from None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def ours(args: argparse.Namespace, precision: str) -> None:
    """Train with this package."""
    train, test = load(args.data, quick=args.quick)
    part, val = train.split(0.1)
    model = network("resnet20", quick=args.quick)
    recipe = RECIPES["modern"].but(epochs=args.epochs, **({"batch_size": 32} if args.quick else {}))
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint.pt"
        settings = {"device": args.device, "precision": precision, "progress": False}
        fit(model, part, val, recipe, checkpoint=checkpoint, **settings)
    predict(model, test)


def textbook(args: argparse.Namespace) -> None:
    """Train with the textbook loop."""
    # Imported only here: a run with this package does without torchvision.
    from epoch import textbook_epoch, textbook_loaders, textbook_optimizer

    train, test = load(args.data, quick=args.quick)
    part, val = train.split(0.1)
    model = network("resnet20", quick=args.quick).to(args.device)
    optimizer = textbook_optimizer(model)
    batch_size = 32 if args.quick else RECIPES["modern"].batch_size
    train_loader, val_loader = textbook_loaders(part, val, batch_size, workers=0, device=args.device)
    _, test_loader = textbook_loaders(part, test, batch_size, workers=0, device=args.device)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.epochs):
            textbook_epoch(model, optimizer, train_loader, val_loader, args.device)
            torch.save(model.state_dict(), Path(folder) / "checkpoint.pt")
    model.eval()
    with torch.no_grad():
        for images, _ in test_loader:
            model(images.to(args.device)).argmax(1)


def measure(args: argparse.Namespace, variant: str) -> tuple[int, int, int]:
    """Run in a process of its own and count bytes.

    Returns:
        The peak of its resident memory before the run (Python and this package's imports) and after it, and
        the peak of a GPU's memory.
    """
    before = peak_resident()
    if args.threads:
        torch.set_num_threads(args.threads)
    if variant == "textbook":
        textbook(args)
    else:
        ours(args, variant)
    on_gpu = torch.cuda.max_memory_allocated(args.device) if args.device.type == "cuda" else 0
    return before, peak_resident(), on_gpu


def in_new_process(function: Callable[..., object], *arguments: object) -> object:
    """Call the function in a fresh process, which has nothing of this one's memory."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = options(__doc__)
    parser.add_argument("--epochs", type=positive, default=2, help="length of the run (default: 2)")
    args, _, _ = parse(parser, argv)
    try:
        peak_resident()
    except OSError as error:
        parser.error(str(error))

    imports: list[int] = []
    on_gpu: dict[str, int] = {}

    def peak(name: str, variant: str) -> Callable[[], float]:
        def run() -> float:
            before, resident, on_gpu[name] = in_new_process(measure, args, variant)
            imports.append(before)
            return resident / MIB

        return run

    kinds = ["fp32"] if args.quick else precisions(args.device)
    names = {"textbook, fp32": "textbook"} | {f"ours, {kind}": kind for kind in kinds}
    peaks = interleave({name: peak(name, variant) for name, variant in names.items()}, args.repeats)
    report(
        f"Peak memory of a run of {args.epochs} epochs",
        args,
        ("run", "resident (MiB)", "ratio to the textbook", "range over rounds", "on the GPU (MiB)"),
        [
            (
                name,
                f"{median(values):.0f}",
                *ratio(values, peaks["textbook, fp32"]),
                f"{on_gpu[name] / MIB:.0f}" if args.device.type == "cuda" else "-",
            )
            for name, values in peaks.items()
        ],
        name="memory",
        how=f"medians over interleaved rounds ({args.repeats}), a process for every run",
        notes=[f"Python and this package's imports alone: {median(imports) / MIB:.0f} MiB, in every row."],
    )


if __name__ == "__main__":
    main()
