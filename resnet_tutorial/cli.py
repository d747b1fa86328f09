"""The command line: ``resnet-tutorial download | train | evaluate | predict | finetune | export | check``."""

from __future__ import annotations

import argparse
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from . import __version__, commands, runtime
from .commands import SHIPPED
from .data import DownloadError
from .ending import TerminatedError, ended_by_sigterm, patient_output
from .models import SHIPPED_WEIGHTS
from .training import (
    BEST_BY,
    METHODS,
    RECIPES,
    BatchTooLargeError,
    DivergedError,
    distributed,
    is_out_of_memory,
)

__all__ = ["main"]

TRAIN_EXAMPLES = """examples:
  resnet-tutorial train                                      the sample, in about a minute
  resnet-tutorial train --data cifar10 --recipe modern       the full data set
  resnet-tutorial train --data photos/ --model resnet32      your own images, one folder a class
  torchrun --nproc-per-node 2 -m resnet_tutorial train --data cifar10      two processes, or two GPUs
"""
EVALUATE_EXAMPLES = """examples:
  resnet-tutorial evaluate runs/photos/model.safetensors --report out/     the photos kept for the test
  resnet-tutorial evaluate runs/resnet20-quick-s0/model.safetensors
  resnet-tutorial evaluate model.safetensors --data cifar10 --json report.json
"""
PREDICT_EXAMPLES = """examples:
  resnet-tutorial predict photo.jpg
  resnet-tutorial predict new/ --weights runs/photos/model.safetensors --csv answers.csv
"""
FINETUNE_EXAMPLES = """examples:
  resnet-tutorial finetune --data photos/ --model resnet18 --weights imagenet
  resnet-tutorial finetune --data photos/                       without a network: ResNet-20, 32 pixels
  resnet-tutorial finetune --data photos/ --method all --class-weights --best-by balanced-accuracy
  resnet-tutorial finetune --data photos/ --weights runs/photos/model.safetensors --method all --out runs/all

Results go to runs/ and the folder's name. A tenth of the photos chooses, a fifth is kept for `evaluate`.
"""
EXPORT_EXAMPLES = """examples:
  resnet-tutorial export runs/photos/model.safetensors model.onnx
"""
CHECK_EXAMPLES = """examples:
  resnet-tutorial check 3
  resnet-tutorial check 3 --notebook mine.ipynb

A cell that begins with "# Your answer to Exercise 3.2" and ends with the answer is checked. It is run, and so
are the imports and definitions of the chapter in that file: check no notebook of people you do not trust.
An answer that has not ended after 120 seconds, or takes more than 8 GB of memory, has failed; the others are
judged all the same.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0, 2 after bad input (one line on standard error), 130 when interrupted.

    Example:
        >>> from PIL import Image
        >>> from resnet_tutorial.data import load_sample
        >>> train, test = load_sample()
        >>> Image.fromarray(test.images[1].permute(1, 2, 0).numpy()).save("photo.png")
        >>> main(["predict", "photo.png", "--top", "1"])
        photo.png: ship ...%
        0
    """
    arguments = None
    try:
        arguments = build_parser().parse_args(argv)
        arguments.argv = list(sys.argv[1:] if argv is None else argv)
        with ended_by_sigterm(), _plain_warnings(), patient_output(), distributed.joined():
            arguments.command(arguments)
    # A warning where PYTHONWARNINGS=error makes errors of them.
    except (ValueError, DownloadError, DivergedError, distributed.WorkerLostError, OSError, Warning) as error:
        _complain(_reason(error))
        return 2
    except KeyboardInterrupt as error:
        asked = isinstance(error, TerminatedError)
        _complain("; ".join(filter(None, ["asked to end (SIGTERM)" if asked else "interrupted", str(error)])))
        return 143 if asked else 130
    except BatchTooLargeError as error:
        _complain(f"out of memory: {error}, a smaller network, or --device cpu")
        return 2
    except (MemoryError, RuntimeError) as error:
        # PyTorch's allocator on the CPU says it in words alone.
        if not (isinstance(error, MemoryError) or is_out_of_memory(error) or "memory" in str(error)):
            raise
        _complain(f"out of memory: {_less(vars(arguments) if arguments else {})}")
        return 2
    return 0


def _less(options: dict[str, Any]) -> str:
    """Say what takes less memory, by the options that a command has."""
    if "batch_size" in options:
        batch = options["batch_size"]
        advice = f"a --batch-size below {batch}" if batch else "smaller batches (--batch-size) or images"
        return f"take {advice}, a smaller network, or --device cpu"
    if "size" in options:
        return "take smaller images (--size)" + (", or --device cpu" if "device" in options else "")
    return "close other programs, or take a machine that has more"


def _reason(error: Exception) -> str:
    """Return the message, without the number that the system gives it."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or type(error).__name__}"
    return str(error)


def _complain(text: str) -> None:
    """Print one line on standard error, if anybody reads it."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(_line(text), file=sys.stderr, flush=True)


def _line(text: str) -> str:
    """Return a message as one line, without what a terminal would obey, however much it quotes."""
    text = text if len(text) < 2000 else f"{text[:1000]} ... {text[-900:]}"
    return "".join(letter if letter.isprintable() else " " for letter in f"resnet-tutorial: {text}")


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print warnings, and errors of threads, as one line on standard error, without a place in the source."""
    original, hook = warnings.formatwarning, threading.excepthook
    warnings.formatwarning = lambda message, *_, **__: _line(str(message)) + "\n"
    threading.excepthook = lambda failed: _complain(f"a thread in the background ended: {failed.exc_value}")
    try:
        yield
    finally:
        warnings.formatwarning, threading.excepthook = original, hook


class _Parser(argparse.ArgumentParser):
    """A parser that complains in one line, like all of this program."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def _number(low: int, high: int) -> Callable[[str], int]:
    """Return what argparse calls to read a whole number from ``low`` to ``high``."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} to {high}")
        return number

    return read


def _word(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("it is empty: leave the option out, or give a value")
    return text


def _place(text: str) -> str:
    """Refuse what can be the name of no file."""
    if not text:
        raise argparse.ArgumentTypeError("the name of a file or folder is empty")
    if "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r:.60} has a NUL in it: no file's name has")
    if any(len(os.fsencode(part)) > 255 for part in Path(text).parts) or len(os.fsencode(text)) > 4000:
        raise argparse.ArgumentTypeError(f"{text[:40]!r}... is too long for the name of a file: shorten it")
    return text


def _path(text: str) -> Path:
    return Path(_place(text))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser, whose help shows examples for every command."""
    parser = _Parser(prog="resnet-tutorial", description="Train, fine-tune and evaluate ResNets.")
    parser.add_argument("--version", action="version", version=f"resnet-tutorial {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    shipped = " or ".join(weights for _, weights in SHIPPED_WEIGHTS) + ", which come with the package"

    def add(
        name: str, command: Callable[[argparse.Namespace], None], summary: str, examples: str
    ) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(command=command)
        return sub

    sub = add("download", commands.download, "Fetch all of CIFAR-10 and check its content.", "")
    sub.add_argument(
        "--root", type=_path, help="where to keep it (default: RESNET_TUTORIAL_DATA or the user's cache)"
    )

    sub = add("train", commands.train, "Train a network from scratch.", TRAIN_EXAMPLES)
    sub.add_argument(
        "--model", default="resnet20", help="resnet20, plain56, resnet18_cifar, ... (default: resnet20)"
    )
    _add_data(sub, "sample")
    sub.add_argument("--classes", nargs="+", metavar="NAME", help="learn only these classes of the data")
    _add_training(sub, recipe="quick")
    sub.add_argument(
        "--record",
        type=_path,
        metavar="DIR",
        help="afterwards measure the test images, once, and write it down",
    )

    sub = add(
        "evaluate",
        commands.evaluate,
        "Measure a trained network on the test images, or on all of a folder.",
        EVALUATE_EXAMPLES,
    )
    sub.add_argument("weights", type=_place, help=f"a file that train or finetune wrote, or {shipped}")
    _add_data(sub, None, default="the photos kept for the test, else the sample")
    sub.add_argument(
        "--part",
        choices=("test", "val", "train"),
        default="test",
        help="of the photos that it was trained on",
    )
    sub.add_argument(
        "--allow-seen",
        action="store_true",
        help="measure photos of the training too, and say how many they are",
    )
    sub.add_argument("--classes", nargs="+", metavar="NAME", help="measure only images of these classes")
    sub.add_argument("--model", help="refuse the file unless it holds this network")
    sub.add_argument("--flip", action="store_true", help="average each image with its mirror image")
    sub.add_argument("--device", type=_word, help="cpu, cuda, ... (default: the fastest there is)")
    sub.add_argument(
        "--report", type=_path, metavar="DIR", help="also write a page with figures, and its numbers as JSON"
    )
    sub.add_argument("--json", type=_path, metavar="FILE", help="also write the report as JSON")
    sub.add_argument(
        "--logits", type=_path, metavar="FILE", help="also write the logits (.npz), as chapter 6 reads"
    )

    sub = add("predict", commands.predict, "Name what is in pictures.", PREDICT_EXAMPLES)
    sub.add_argument(
        "images", nargs="+", type=_path, metavar="IMAGE", help="files, folders, or patterns like *.png"
    )
    sub.add_argument(
        "--weights", type=_place, default=SHIPPED, help=f"a file, or {shipped} (default: {SHIPPED})"
    )
    sub.add_argument("--model", help="refuse the file unless it holds this network")
    sub.add_argument("--top", type=int, help="how many classes to print (default: 3, or all if fewer)")
    sub.add_argument("--csv", type=_path, metavar="FILE", help="write a table instead")
    sub.add_argument("--device", type=_word, help="cpu, cuda, ... (default: the fastest there is)")
    _add_reading(sub)

    sub = add(
        "finetune", commands.finetune, "Adapt a trained network to your own classes.", FINETUNE_EXAMPLES
    )
    sub.add_argument(
        "--weights",
        type=_place,
        default=SHIPPED,
        help=f"a file, imagenet (torchvision's, fetched once), or {shipped} (default: {SHIPPED})",
    )
    sub.add_argument("--model", help="the network that the weights are of (default: the file says it)")
    _add_data(sub, None)
    sub.add_argument(
        "--method",
        choices=METHODS,
        default="head",
        help="train the head alone (default), also batch normalisation or the last stage, or all: gradually,"
        " or at once at lower rates for earlier stages; the head is always first",
    )
    _add_training(sub, recipe="photos")

    sub = add("export", commands.export, "Write a trained network as ONNX.", EXPORT_EXAMPLES)
    sub.add_argument("weights", type=_place, help=f"a file that train or finetune wrote, or {shipped}")
    sub.add_argument("file", type=_path, help="the file to write, such as model.onnx")
    sub.add_argument("--model", help="refuse the file unless it holds this network")
    sub.add_argument(
        "--size", type=int, metavar="PIXELS", help="side of the images, if the file does not say it"
    )

    sub = add("check", commands.check, "Check your answers to a chapter's exercises.", CHECK_EXAMPLES)
    sub.add_argument("chapter", type=int, help="its number")
    sub.add_argument("--notebook", type=_path, help="the file with your answers (default: the chapter's own)")
    return parser


def _add_data(parser: argparse.ArgumentParser, value: str | None, *, default: str | None = None) -> None:
    default = default or value
    parser.add_argument(
        "--data",
        type=_place,
        default=value,
        required=default is None,
        help="sample, cifar10, or a directory with one folder a class"
        + (f" (default: {default})" if default else ""),
    )
    _add_reading(parser)


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--skip-unreadable", action="store_true", help="leave unreadable images out, with a warning"
    )
    parser.add_argument(
        "--size",
        type=int,
        metavar="PIXELS",
        help="side of the images (default: what the network was trained with)",
    )
    parser.add_argument("--white", type=int, help="value of white in 16-bit pictures (default: 65535)")


def _add_training(parser: argparse.ArgumentParser, *, recipe: str) -> None:
    parser.add_argument("--recipe", default=recipe, help=f"one of {', '.join(RECIPES)} (default: {recipe})")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--batch-size", type=int, help="instead of the recipe's")
    parser.add_argument("--lr", type=float, help="instead of the recipe's peak learning rate")
    parser.add_argument(
        "--val-fraction", type=float, default=0.1, help="share kept for validation (default: 0.1)"
    )
    parser.add_argument(
        "--test-fraction",
        type=float,
        default=0.2,
        help="share of a folder kept for evaluate (default: 0.2)",
    )
    parser.add_argument(
        "--group-by", choices=("subfolder",), help="keep a session's or patient's photos in one part"
    )
    parser.add_argument(
        "--class-weights", action="store_true", help="let each class count the same in the loss"
    )
    parser.add_argument(
        "--best-by", choices=tuple(BEST_BY), help="what best.safetensors is chosen by (default: loss)"
    )
    parser.add_argument(
        "--set",
        action="append",
        metavar="FIELD=VALUE",
        help="change any field of the recipe, such as views=none",
    )
    parser.add_argument("--seed", type=_number(0, 2**32 - 1), default=0, help="from 0 to 2**32 - 1")
    parser.add_argument("--device", type=_word, help="cpu, cuda, ... (default: the fastest there is)")
    parser.add_argument("--precision", choices=runtime.PRECISIONS, default="auto")
    parser.add_argument("--compile", action="store_true", help="compile the network (pays in long runs)")
    parser.add_argument(
        "--out", type=_path, help="directory for the results (default: runs/ and a name made of the settings)"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the results of an earlier run in that directory, once this one is finished; if it"
        " diverges or ends before its first checkpoint they are put back",
    )
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run of this command")
    parser.add_argument(
        "--save-every", type=_number(1, 10**12), metavar="STEPS", help="save the run's state this often, too"
    )
    parser.add_argument("--tensorboard", type=_path, metavar="DIR", help="write curves for TensorBoard")
