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


def largest_batch(model: nn.Module, images: torch.Tensor, dtype: torch.dtype | None = None) -> int:
    """Halve a batch until the network can learn from it; gradients and running statistics are lost.

    Args:
        model: In train mode.
        images: One image, float32 ``(1, C, H, W)``, as often as in a batch: ``images.expand(B, -1, -1, -1)``.
        dtype: For autocast, ``None`` for float32.

    Returns:
        How many images fit; 0 if not even two do.

    Example:
        >>> largest_batch(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8).expand(128, -1, -1, -1))
        64
    """
    count = len(images) // 2
    while count >= 2:
        model.zero_grad(set_to_none=True)
        with contextlib.suppress(torch.OutOfMemoryError):
            with runtime.autocast(images.device, dtype):
                outputs = model(images[:count].contiguous(memory_format=torch.channels_last))  # (B, K)
            outputs.float().sum().backward()
            return count
        torch.cuda.empty_cache()
        count //= 2
    return 0


@contextlib.contextmanager
def named_batch(
    model: nn.Module, shape: torch.Size, device: torch.device, dtype: torch.dtype | None
) -> Iterator[None]:
    """Say which batch fits, if the steps inside find no memory for theirs, ``(B, C, H, W)``.

    Raises:
        BatchTooLargeError: If there was a ``torch.OutOfMemoryError``, which it takes the place of.
    """
    try:
        yield
        return
    except torch.OutOfMemoryError as error:
        traceback.clear_frames(error.__traceback__)  # they hold what the step had computed
    torch.cuda.empty_cache()
    image = torch.zeros(1, *shape[1:], device=device)
    count = largest_batch(model, image.expand(shape[0] // distributed.size(), -1, -1, -1), dtype)
    fits = count * distributed.size()
    advice = f"of {fits} they do: take --batch-size {fits}" if fits else "nor do 2 images: take smaller ones"
    raise BatchTooLargeError(f"batches of {shape[0]} images do not fit into the memory, {advice}")
