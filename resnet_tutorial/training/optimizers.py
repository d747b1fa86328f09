"""What torch lacks of optimisers: Muon for banks of filters, groups without decay, an average of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # of Jordan et al.: a quintic that rises steeply at zero
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Train banks of filters with Muon, everything else with SGD and Nesterov momentum.

    Muon replaces the momentum of a weight matrix by one of nearly orthonormal rows or columns, whichever are
    fewer, so that all directions get updates of about equal size (Jordan et al., "Muon: an optimizer for
    hidden layers in neural networks", 2024). A bank ``(K, C, h, w)`` counts as a matrix ``(K, C * h * w)``.
    Banks of one shape are computed together, so that a network of many layers needs few, large operations;
    the result is that of ``torch.optim.Muon`` on each matrix.

    Args:
        groups: Tensors or parameter groups; a group may have its own ``lr`` and ``weight_decay``.
        lr: Rate of the filters.
        other_lr: Rate of batch normalisation, biases and the head, in proportion to a group's own ``lr``.
        momentum: Of both; above 0.
        weight_decay: Of the filters, decoupled from the gradient; the others have none.

    Raises:
        ValueError: If a rate, the momentum or the weight decay is out of range.

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

    # `step` looks at `found_inf` itself: a GradScaler then need not wait for the GPU to decide.
    _step_supports_amp_scaling = True

    def __init__(
        self, groups: Iterable[Any], *, lr: float, other_lr: float, momentum: float, weight_decay: float
    ) -> None:
        if not (lr > 0 and other_lr > 0 and 0 < momentum < 1 and weight_decay >= 0):
            given = f"lr={lr}, other_lr={other_lr}, momentum={momentum}, weight_decay={weight_decay}"
            raise ValueError(f"{given}: give rates above 0, momentum between 0 and 1, weight decay from 0")
        self.momentum, self.ratio = momentum, other_lr / lr
        self.others = torch.optim.SGD(
            [{"params": []}], lr=other_lr, momentum=momentum, nesterov=True, fused=True
        )
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Train these parameters, too; see :class:`torch.optim.Optimizer`."""
        super().add_param_group(param_group)
        others = {"params": [p for p in self.param_groups[-1]["params"] if p.ndim != 4]}
        if len(self.param_groups) == 1:
            self.others.param_groups.clear()
        self.others.add_param_group(others)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step at the rates that ``param_groups`` have now.

        After :class:`torch.amp.GradScaler` found an infinite gradient, the step changes nothing.
        """
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        for group, rest in zip(self.param_groups, self.others.param_groups, strict=True):
            rest["lr"] = group["lr"] * self.ratio
        vars(self.others).update(found_inf=found_inf, grad_scale=None)
        self.others.step()

        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.ndim == 4 and p.grad is not None:
                    by_shape.setdefault(p.shape, []).append(p)
            for banks in by_shape.values():
                self._step_alike(banks, group["lr"], group["weight_decay"], found_inf)

    def _step_alike(
        self, banks: list[Tensor], lr: float, weight_decay: float, found_inf: Tensor | None
    ) -> None:
        """Take the step of banks of one shape ``(K, C, h, w)``, G of them."""
        for bank in banks:
            if not self.state[bank]:
                self.state[bank]["momentum"] = torch.zeros_like(bank)
        moments = [self.state[bank]["momentum"] for bank in banks]
        gradients = [bank.grad for bank in banks if bank.grad is not None]
        with _undone_if(found_inf, [*banks, *moments]):
            torch._foreach_lerp_(moments, gradients, 1 - self.momentum)
            steps = torch.stack(gradients).lerp_(torch.stack(moments), self.momentum)  # (G, K, C, h, w)
            ratio = steps.size(1) / steps[0, 0].numel()  # tall matrices take longer steps, as in torch's Muon
            steps = _orthonormal(steps).mul_(max(1, ratio) ** 0.5)
            if weight_decay:
                steps.add_(torch.stack(banks), alpha=weight_decay)
            torch._foreach_add_(banks, steps.mul_(-lr).unbind())

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs: the states of both parts."""
        return {"filters": super().state_dict(), "others": self.others.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        super().load_state_dict(state_dict["filters"])
        self.others.load_state_dict(state_dict["others"])


def _orthonormal(banks: Tensor) -> Tensor:
    """Return the nearly orthonormal matrices next to banks ``(G, K, C, h, w)``, found in bfloat16.

    By Newton and Schulz: singular values end between about 0.7 and 1.2. Orthonormal are the rows or, in a
    tall matrix, the columns.
    """
    x = banks.flatten(2).bfloat16()  # (G, K, C * h * w)
    if tall := x.size(1) > x.size(2):
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(ITERATIONS):
        gram = torch.bmm(x, x.transpose(1, 2))
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(banks.dtype).reshape(banks.shape)


@contextmanager
def _undone_if(flag: Tensor | None, tensors: list[Tensor]) -> Iterator[None]:
    """Afterwards the tensors are as they were if the flag is not zero; nobody waits for its value."""
    if flag is None:
        yield
        return
    before = [tensor.clone() for tensor in tensors]
    yield
    for tensor, old in zip(tensors, before, strict=True):
        tensor.copy_(torch.where(flag != 0, old, tensor))


def decays(parameter: Tensor) -> bool:
    """Whether a parameter is a weight: biases, scales and shifts of normalisation have one axis."""
    return parameter.ndim > 1


def decay_groups(
    parameters: Iterable[Tensor], *, weight_decay: float, decay_all: bool
) -> list[dict[str, Any]]:
    """Return the parameters as one group or, unless ``decay_all``, a second one without decay; none empty."""
    weights: list[Tensor] = []
    exempt: list[Tensor] = []
    for parameter in parameters:
        (weights if decay_all or decays(parameter) else exempt).append(parameter)
    groups = [{"params": weights, "weight_decay": weight_decay}, {"params": exempt, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


class MovingAverage:
    """An exponential moving average of a network's weights and running statistics.

    Whole numbers, such as the step counters of batch normalisation, stay the network's own; its tensors must
    stay where they are in memory. Each step keeps the share ``decay`` of the old average, which starts as the
    first weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.own = [value for value in model.state_dict().values() if value.is_floating_point()]
        self.mean = [value.clone() for value in self.own]
        self.blend = get_ema_multi_avg_fn(decay)
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights into the average."""
        if self.steps == 0:
            torch._foreach_copy_(self.mean, self.own)
        else:
            self.blend(self.mean, self.own, self.steps)
        self.steps += 1

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the network's tensors with the average's."""
        own = [value.clone() for value in self.own]
        torch._foreach_copy_(self.own, self.mean)
        torch._foreach_copy_(self.mean, own)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""
        return {"mean": self.mean, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        torch._foreach_copy_(self.mean, state["mean"])
        self.steps = state["steps"]
