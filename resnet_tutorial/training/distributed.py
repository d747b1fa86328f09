"""Training with several processes, on one machine or on many, started by ``torchrun``.

Every process holds all data and draws the same random numbers; of each batch it computes its own share. The
gradients are averaged (``DistributedDataParallel``), so that all processes take the same step. In a single
process everything here does nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["WorkerLostError", "joined", "local_device", "parallel", "rank", "share", "size", "total"]

TIMEOUT = datetime.timedelta(minutes=5)  # a process that is silent for so long counts as lost
ADVICE = "let torchrun start the processes and set this, or unset WORLD_SIZE to train with one"
VOTES = 16  # steps from one question to all processes to the next


class WorkerLostError(RuntimeError):
    """Another process of the job is gone."""


def rank() -> int:
    """Return the number of this process, from 0; process 0 writes files and prints.

    Example:
        >>> if rank() == 0:  # once, not in every process
        ...     print("finished")
        finished
    """
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Return how many processes train together.

    Example:
        >>> 128 // size()  # of a batch, images for each process: all, in a single one
        128
    """
    return dist.get_world_size() if dist.is_initialized() else 1


def local_device() -> str | None:
    """Return the GPU of this process on its machine; ``None`` in a single process or without GPUs.

    Example:
        >>> print(local_device())  # in a single process
        None
    """
    if size() == 1 or not torch.cuda.is_available():
        return None
    return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Join the other processes that ``torchrun`` started, for the time of the block.

    GPUs talk through NCCL, CPUs through Gloo.

    Raises:
        WorkerLostError: If another process died, or never came; ``torchrun`` then ends the job.
        ValueError: If the environment is not what ``torchrun`` makes it.

    Example:
        >>> with joined():
        ...     print(f"process {rank()} of {size()}")
        process 0 of 1
    """
    if os.environ.get("WORLD_SIZE", "") in ("", "1") or dist.is_initialized():
        yield
        return
    _check_environment()
    gpus = torch.cuda.is_available() and dist.is_nccl_available()
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=TIMEOUT)
    except RuntimeError as error:
        place = ":".join(os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT"))
        told = f"the {os.environ['WORLD_SIZE']} processes of this job did not meet at {place}"
        raise WorkerLostError(
            f"{told} within {TIMEOUT.seconds} s: start all of them, with torchrun"
        ) from error
    try:
        yield
    except RuntimeError as error:
        if not any(word in str(error) for word in ("Connection", "closed", "Timed out", "NCCL", "peer")):
            raise
        lost = f"process {rank()} lost contact with another process of this job, which probably died"
        raise WorkerLostError(f"{lost}: start the same command again with --resume") from error
    finally:
        dist.destroy_process_group()


def _check_environment() -> None:
    """Refuse what torchrun would not have set: PyTorch waits for minutes, or speaks of a "rendezvous"."""
    others = "1000000"
    limits = {"WORLD_SIZE": (2, others), "RANK": (0, "WORLD_SIZE - 1"), "LOCAL_RANK": (0, others)}
    for name, (low, high) in (limits | {"MASTER_PORT": (0, "65535")}).items():
        text = os.environ.get(name, "0" if name == "LOCAL_RANK" else "")
        most = int(os.environ["WORLD_SIZE"]) - 1 if name == "RANK" else int(high)
        if not (re.fullmatch("[0-9]{1,7}", text) and low <= int(text) <= most):
            raise ValueError(f"{name}={text!r} is no whole number from {low} to {high}: {ADVICE}")
    if not os.environ.get("MASTER_ADDR"):
        raise ValueError(f"WORLD_SIZE is set and MASTER_ADDR is not: {ADVICE}")


def parallel(model: nn.Module) -> nn.Module:
    """Return the model, with gradients averaged over the processes.

    The weights of process 0 are given to all. Batch normalisation uses the statistics of each process's own
    share of the batch, and the running statistics of process 0.

    Example:
        >>> model = nn.Linear(4, 2)
        >>> parallel(model) is model  # in a single process
        True
    """
    return model if size() == 1 else nn.parallel.DistributedDataParallel(model)


def align_buffers(model: nn.Module) -> None:
    """Give the running statistics of process 0 to all, so that all measure the network that is saved."""
    if size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def share(n: int, start: int = 0) -> slice:
    """Return which of the ``n`` items from ``start`` on are for this process: every ``size()``-th.

    Example:
        >>> list(range(10))[share(10)]  # in the second of four processes: [1, 5, 9]
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    return slice(start + rank(), start + n, size())


def total(values: Tensor) -> Tensor:
    """Sum over all processes, in place.

    Example:
        >>> correct, images = total(torch.tensor([45, 50]))
        >>> f"{correct / images:.0%}"
        '90%'
    """
    if size() > 1:
        dist.all_reduce(values)
    return values


def anywhere(flag: bool, step: int) -> bool:
    """Whether the flag is set in any process; all ask at the same steps.

    Asking costs a message to all, so only every ``VOTES``-th step does; a process alone answers at once.
    """
    if size() == 1:
        return flag
    return step % VOTES == 0 and bool(total(torch.tensor(int(flag))))
