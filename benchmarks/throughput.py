"""Training steps of ResNet-20 in images per second: eager, channels-last, mixed precision, compiled.

The batch lies ready on the device, so that this is the network, the loss and the optimiser alone; the input
pipeline has a benchmark of its own. Each line of the table adds or exchanges one thing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from common import interleave, network, options, parse, place, positive, precisions, report, synchronize
from torch import Tensor
from torch.nn import functional as F

from resnet_tutorial import data, runtime
from resnet_tutorial.data import CIFAR10
from resnet_tutorial.training import RECIPES

FORMATS = {"default": torch.contiguous_format, "channels-last": torch.channels_last}
BATCH_SIZES = (32, 128, 512)


def batch_of(split: data.Split, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the first images ``(size, 3, 32, 32)``, normalised, and labels, repeated if they are few."""
    indices = torch.arange(size) % len(split)
    return CIFAR10(split.images[indices]).to(device), split.labels[indices].to(device)


def stepper(
    split: data.Split, args, *, batch_size: int, memory_format: str, precision: str, compile: bool
) -> Callable[[], float]:
    """Make a function that takes some training steps and returns images per second."""
    device, dtype = args.device, runtime.pick_precision(args.device, precision)
    model = network("resnet20", quick=args.quick).to(device, memory_format=FORMATS[memory_format])
    forward = runtime.compiled(model, device) if compile else model
    recipe = RECIPES["paper"]
    optimizer = recipe.make_optimizer(model.parameters())
    images, labels = batch_of(split, batch_size, device)
    images = images.contiguous(memory_format=FORMATS[memory_format])
    steps = max(1, args.steps * 128 // batch_size)

    def run() -> float:
        synchronize(device)
        started = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with runtime.autocast(device, dtype):
                logits = forward(images)
            F.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
        synchronize(device)
        return steps * batch_size / (time.perf_counter() - started)

    return run


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = options(__doc__)
    parser.add_argument("--steps", type=positive, help="steps of 128 images a round (default: 10)")
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled ones out")
    args, train, _ = parse(parser, argv)
    args.steps = args.steps or (1 if args.quick else 10)
    sizes = (16,) if args.quick else BATCH_SIZES
    kinds = precisions(args.device)
    compiled = () if args.quick or args.no_compile else (True,)

    settings: list[tuple[int, str, str, bool]] = []
    for size in sizes:
        settings.append((size, "default", "fp32", False))
        settings += [(size, "channels-last", kind, False) for kind in kinds]
        settings += [(size, "channels-last", kind, yes) for kind in kinds for yes in compiled]
    keys = ("batch_size", "memory_format", "precision", "compile")
    variants, first = {}, {}
    for setting in settings:
        variants[str(setting)] = stepper(train, args, **dict(zip(keys, setting, strict=True)))
        started = time.perf_counter()
        variants[str(setting)]()  # warms up, and compiles; not counted
        first[str(setting)] = time.perf_counter() - started
    rates = interleave(variants, args.repeats)

    report(
        "Training steps of ResNet-20, images per second",
        args,
        (
            *("batch", "memory format", "precision", "compiled", "images/s", "lowest", "highest"),
            "first round (s)",
        ),
        [
            [
                *(size, layout, kind, "yes" if yes else "no"),
                *(round(f(rates[str((size, layout, kind, yes))])) for f in (median, min, max)),
                round(first[str((size, layout, kind, yes))], 1),
            ]
            for size, layout, kind, yes in settings
        ],
        name=f"throughput-{place(args.device)}",
        how=f"medians over interleaved rounds ({args.repeats}) of {args.steps} steps of 128 images, or of "
        "as many images; the first round, with warm-up and compiling, not counted",
        notes=["On a GPU the compiled network runs as CUDA graphs."] if args.device.type == "cuda" else [],
    )


if __name__ == "__main__":
    main()
