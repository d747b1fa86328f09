"""Optimisers that torch does not have in the form that a convolutional network needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Muon for convolution filters, SGD with Nesterov momentum for everything else.

    Muon replaces the momentum of a weight matrix by the nearest matrix with orthonormal rows, so that every
    direction of the matrix is learned at the same rate (Jordan et al., "Muon: an optimizer for hidden layers
    in neural networks", 2024). ``torch.optim.Muon`` takes matrices only. A filter bank ``(K, C, h, w)`` is
    one, of shape ``(K, C * h * w)``; here each gets a twin of that shape that shares its memory.

    Args:
        groups: tensors or parameter groups; a group may have its own ``lr`` and ``weight_decay``.
        lr: rate of the filters.
        other_lr: rate of batch normalisation, biases and the head, in proportion to a group's own ``lr``.
        momentum: of both; above 0.
        weight_decay: of the filters, decoupled from the gradient; the others have none.

    Raises:
        ValueError: if this version of torch has no Muon.

    Example:
        >>> layer = nn.Conv2d(3, 8, kernel_size=3, bias=False)
        >>> optimizer = Muon(layer.parameters(), lr=0.1, other_lr=0.1, momentum=0.9, weight_decay=0.0)
        >>> before = layer.weight.detach().clone()
        >>> layer(torch.randn(2, 3, 8, 8)).square().sum().backward()
        >>> optimizer.step()
        >>> moved = torch.linalg.svdvals((layer.weight.detach() - before).flatten(1))
        >>> bool(((0.05 < moved) & (moved < 0.15)).all())  # every direction by about lr
        True
    """

    def __init__(
        self, groups: Iterable[Any], *, lr: float, other_lr: float, momentum: float, weight_decay: float
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(f"torch {torch.__version__} has no Muon: use torch 2.9 or newer, or sgd")
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})
        self.ratio = other_lr / lr
        self.twins: list[tuple[nn.Parameter, nn.Parameter]] = []
        filters, others = [], []
        for group in self.param_groups:
            banks = [p for p in group["params"] if p.ndim == 4]
            twins = [nn.Parameter(_matrix(p.data, like=p)) for p in banks]
            self.twins += zip(banks, twins, strict=True)
            filters.append({"params": twins})
            others.append({"params": [p for p in group["params"] if p.ndim != 4]})
        self.filters = torch.optim.Muon(filters, lr=lr, momentum=momentum, weight_decay=weight_decay)
        self.others = torch.optim.SGD(others, lr=other_lr, momentum=momentum, nesterov=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> None:
        """One step; the rates are those that ``param_groups`` have now."""
        for group, inner, rest in zip(
            self.param_groups, self.filters.param_groups, self.others.param_groups, strict=True
        ):
            inner |= {"lr": group["lr"], "weight_decay": group["weight_decay"]}
            rest["lr"] = group["lr"] * self.ratio
        for bank, twin in self.twins:
            twin.grad = None if bank.grad is None else _matrix(bank.grad, like=bank)
        self.filters.step()
        self.others.step()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: the states of both parts."""
        return {"filters": self.filters.state_dict(), "others": self.others.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from what :meth:`state_dict` gave."""
        self.filters.load_state_dict(state_dict["filters"])
        self.others.load_state_dict(state_dict["others"])


def _matrix(filters: Tensor, *, like: Tensor) -> Tensor:
    """The filters ``(K, C, h, w)``, or their gradient, as a matrix of K rows.

    The order of its columns does not matter to Muon, as long as filters and gradient agree: it is that of the
    memory of ``like``, so that the filters' own matrix is a view in either memory format.
    """
    if not like.is_contiguous():  # channels-last
        filters = filters.permute(0, 2, 3, 1)
    return filters.reshape(len(filters), -1)
