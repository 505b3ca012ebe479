"""What a training changes: parameters, buffers and the tensors of the optimiser."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.training.checkpoint import Checkpoint
from kdbench.training.recipe import Recipe

#: What the loop optimises: a module, a tensor, or several of them.
Trained = nn.Module | Tensor | Iterable[nn.Module | Tensor]
#: A parameter, and the optimiser that changes it.
Optimised = tuple[Tensor, torch.optim.Optimizer]


def parts_of(trained: Trained) -> list[nn.Module | Tensor]:
    return [trained] if isinstance(trained, nn.Module | Tensor) else list(trained)


def parameters_of(parts: list[nn.Module | Tensor]) -> list[Tensor]:
    groups = (part.parameters() if isinstance(part, nn.Module) else [part] for part in parts)
    # Two parts may share a parameter, which is optimised once.
    return list({id(p): p for group in groups for p in group}.values())


def state_of(parts: list[nn.Module | Tensor], optimised: list[Optimised]) -> Checkpoint:
    """Everything but random states that the next step depends on."""
    tensors: dict[str, Tensor] = {}
    extra: dict[str, Any] = {}
    for i, part in enumerate(parts):
        entries = part.state_dict() if isinstance(part, nn.Module) else {"": part}
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"part.{i}.{name}"] = value
            else:
                extra[f"part.{i}.{name}"] = value
    for i, (p, optimizer) in enumerate(optimised):
        for name, value in optimizer.state.get(p, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{i}.{name}"] = value
    return Checkpoint(tensors, {"extra": extra})


@torch.no_grad()
def restore(saved: Checkpoint, parts: list[nn.Module | Tensor], optimised: list[Optimised]) -> None:
    """The inverse of :func:`state_of`, in place. Memory layouts stay as they are."""
    for i, part in enumerate(parts):
        prefix = f"part.{i}."
        entries = {
            k.removeprefix(prefix): v
            for k, v in (saved.tensors | saved.record["extra"]).items()
            if k.startswith(prefix)
        }
        if isinstance(part, nn.Module):
            part.load_state_dict(entries)
        else:
            part.copy_(entries[""])
    for i, (p, optimizer) in enumerate(optimised):
        prefix = f"optimizer.{i}."
        # Where torch keeps the count of steps depends on the kernels that it uses.
        device = p.device if optimizer.defaults["fused"] else "cpu"
        for name, value in saved.tensors.items():
            if name.startswith(prefix):
                like = (
                    torch.empty_like(p)
                    if value.shape == p.shape and value.ndim
                    else torch.empty_like(value, device=device)
                )
                optimizer.state[p][name.removeprefix(prefix)] = like.copy_(value)


def make_optimizer(parameters: list[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser of a recipe, with fused kernels where they are right."""
    # Fused kernels walk memory in order, and mix up a tensor with gaps. None lets torch choose
    # another way.
    fused = all(torch.empty_like(p).stride() == p.stride() for p in parameters) or None
    if recipe.optimizer == "adam":
        return torch.optim.Adam(
            parameters,
            lr=recipe.lr,
            betas=recipe.betas,
            weight_decay=recipe.weight_decay,
            fused=fused,
        )
    optimizer = torch.optim.SGD(
        parameters,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov and recipe.momentum > 0,
        fused=fused,
    )
    if fused and recipe.momentum:
        # By itself torch makes these at the first step, and fails for a parameter whose first
        # gradient comes later.
        for p in parameters:
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return optimizer
