"""What to do where a batch does not fit into the memory of a GPU: the largest one that does is named."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator

import torch
from torch import nn

from .. import runtime
from . import distributed


class BatchTooLargeError(MemoryError):
    """A batch does not fit into the memory; the message says which one does."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU's memory is full; cuBLAS and cuDNN say it in words of their own.

    Example:
        >>> is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling ..."))
        True
    """
    told = "ALLOC_FAILED" in str(error) or "ALLOCATION_FAILED" in str(error)  # the latter from cuDNN 9 on
    return isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and told)


def largest_batch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    dtype: torch.dtype | None = None,
) -> int:
    """Halve a batch until a step of training fits; gradients, momentum and running statistics are lost.

    The step is taken at rate zero: the optimiser gets all the memory that it needs, and no weight changes.

    Args:
        model: In train mode.
        optimizer: Of its parameters.
        images: One image, float32 ``(1, C, H, W)``, as often as in a batch: ``images.expand(B, -1, -1, -1)``.
        dtype: For autocast, ``None`` for float32.

    Returns:
        How many images fit; 0 if not even two do.

    Example:
        >>> model = nn.Conv2d(3, 4, 3)
        >>> optimizer = torch.optim.AdamW(model.parameters())
        >>> largest_batch(model, optimizer, torch.zeros(1, 3, 8, 8).expand(128, -1, -1, -1))
        64
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    count = len(images) // 2
    while count >= 2 and not _fits(model, optimizer, images[:count], dtype):
        torch.cuda.empty_cache()
        count //= 2
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    return count if count >= 2 else 0


def _fits(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, dtype: torch.dtype | None
) -> bool:
    """Whether there is memory for a step with these images."""
    optimizer.zero_grad(set_to_none=True)
    try:
        with runtime.autocast(images.device, dtype):
            outputs = model(images.contiguous(memory_format=torch.channels_last))  # (B, K)
        (0 * outputs.float().sum()).backward()  # no gradient, since that of black images may overflow
        optimizer.step()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


@contextlib.contextmanager
def named_batch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    shape: torch.Size,
    device: torch.device,
    dtype: torch.dtype | None,
) -> Iterator[None]:
    """Say which batch fits, if the steps inside find no memory for theirs, ``(B, C, H, W)``.

    Raises:
        BatchTooLargeError: If a GPU's memory was full, in place of the error that said so.
    """
    try:
        yield
        return
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold what the step had computed
    torch.cuda.empty_cache()
    image = torch.zeros(1, *shape[1:], device=device)
    count = largest_batch(model, optimizer, image.expand(shape[0] // distributed.size(), -1, -1, -1), dtype)
    fits = count * distributed.size()
    advice = f"of {fits} they do: take --batch-size {fits}" if fits else "nor do 2 images: take smaller ones"
    raise BatchTooLargeError(f"batches of {shape[0]} images do not fit into the memory, {advice}")
