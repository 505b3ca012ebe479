"""The only optimisation loop. Attacks, distillers and defenses say what to minimise; this file minimises it."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from kdbench.checkpoint import Checkpoint, Checkpoints, NoCheckpoints, random_state, restore_random_state
from kdbench.data.base import Augmentation, Batch, ImageSet
from kdbench.errors import ConfigError, DivergedError
from kdbench.method import Params

#: oneDNN keeps the kernels it has generated, 1024 of them by default. A deep pair needs more in each step (Pyramid-200 in
#: training about 1,200), and a cache of least recently used ones then never hits: each step generates every kernel again.
#: Read by oneDNN at its first convolution. Results are the same bit for bit.
_PRIMITIVE_CACHE = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")

#: A batch (already on the device) -> named scalar losses; their sum is minimised.
LossFunction = Callable[[Batch], dict[str, Tensor]]

#: What the loop optimises.
Trained = nn.Module | Tensor | Iterable[nn.Module | Tensor]


def cross_entropy(model: Callable[[Tensor], Tensor]) -> LossFunction:
    """The loss of plain training: float images -> logits (N, K) against the labels."""
    return lambda batch: {"ce": nn.functional.cross_entropy(model(batch.images).float(), batch.labels)}


class Recipe(Params):
    """How long and how fast to train."""

    epochs: int = Field(ge=0, description="passes over the training images")
    min_steps: int = Field(0, ge=0, description="optimiser steps to take at least; raises the epochs on a small set")
    batch_size: int = Field(64, ge=2, description="images a step; a last smaller batch is dropped unless it is the only one")
    optimizer: Literal["sgd", "adam"] = Field("sgd", description="SGD with Nesterov momentum, or Adam")
    lr: float = Field(gt=0, description="peak learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD momentum")
    weight_decay: float = Field(5e-4, ge=0, description="L2 penalty")
    schedule: Literal["onecycle", "steps", "constant"] = Field(
        "constant", description="onecycle: linear warm-up, then linear to 0; steps: x0.1 at each milestone, momentum reset"
    )
    warmup: float = Field(0.2, gt=0, lt=1, description="onecycle: fraction of training before the peak")
    milestones: tuple[float, ...] = Field((0.5, 0.75), description="steps: fractions of training at which the rate drops")

    def passes(self, images: int) -> int:
        """Epochs over a set of that many images: ``epochs``, or more where ``min_steps`` asks for it."""
        per_epoch = max(1, images // min(self.batch_size, images))
        return max(self.epochs, math.ceil(self.min_steps / per_epoch))

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of step ``step`` of ``steps``."""
        progress = step / max(1, steps)
        if self.schedule == "onecycle":
            if progress >= self.warmup:
                return self.lr * ((1 - progress) / (1 - self.warmup))
            first = 1 / max(1, steps)  # the first step of a warm-up is not lost to a rate of zero
            return self.lr * min(1.0, max(progress, first) / self.warmup)
        if self.schedule == "steps":
            return self.lr * 0.1 ** sum(progress >= m for m in self.milestones)
        return self.lr


class Progress(Protocol):
    """Told about every step; what a person sees is built on it."""

    def step(self, *, epoch: int, epochs: int, done: int, total: int, loss: float | None, images: int) -> None: ...


class Silent:
    """A progress that says nothing."""

    def step(self, *, epoch: int, epochs: int, done: int, total: int, loss: float | None, images: int) -> None:
        return


@dataclass(frozen=True)
class Numerics:
    """Arithmetic of a run. ``bf16`` autocasts matrix work to bfloat16; parameters and losses stay float32."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    bf16: bool = False
    threads: int = field(default_factory=torch.get_num_threads)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def place(self, module: nn.Module) -> nn.Module:
        """Move a module to the device in channels-last layout (the faster one for convolutions on every device)."""
        return module.to(self.device, memory_format=torch.channels_last)

    def __str__(self) -> str:
        layout = f"{'bf16' if self.bf16 else 'fp32'}+channels_last"
        # On a CPU the number of threads changes the order of sums and so the last bits of every result.
        return f"{layout}, {self.threads} threads" if self.device.type == "cpu" else layout


def choose_numerics(device: str, numerics: str, threads: int | None = None) -> Numerics:
    """Turn ``auto`` into what this machine has. ``threads``: of a stage on a CPU; None: torch's default, one a core.

    bf16 is chosen where the processor multiplies it in hardware (AVX512-BF16 or AMX; a CUDA card of capability 8 or more).

    Raises:
        ConfigError: no such device, or CUDA asked for where there is none.
    """
    chosen = _device(device)
    os.environ.setdefault(*_PRIMITIVE_CACHE)
    if numerics == "auto":
        bf16 = torch.cuda.get_device_capability(chosen)[0] >= 8 if chosen.type == "cuda" else _cpu_multiplies_bf16()
    else:
        bf16 = numerics == "bf16"
    if chosen.type == "cuda" and not bf16:
        torch.backends.fp32_precision = "ieee"  # torch's default would multiply float32 in TF32, and a row would say fp32
    return Numerics(chosen, bf16=bf16, threads=threads or torch.get_num_threads())


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ConfigError(f"--device {name!r} is not a device; use auto, cpu, cuda or cuda:NUMBER")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise ConfigError(f"--device {name} asked for, but torch sees no CUDA device here; use --device cpu or auto")
        if (device.index or 0) >= count:
            raise ConfigError(f"--device {name} asked for; torch sees {count} CUDA device(s), numbered from 0")
    return device


def _cpu_multiplies_bf16() -> bool:
    capabilities = torch.backends.cpu.get_cpu_capability()
    if not capabilities.startswith("AVX512"):
        return False
    flags = Path("/proc/cpuinfo")
    return flags.exists() and any(flag in flags.read_text() for flag in ("avx512_bf16", "amx_bf16"))


@dataclass(frozen=True)
class Fit:
    """The optimisation loop bound to a device, ready to be handed to plugins.

    losses: the mean loss of the last epoch of every call so far. checkpoints: where training left off, so that a killed
    stage, run again, goes on at the last epoch boundary that was kept, to the same bits on a CPU.
    """

    numerics: Numerics
    progress: Progress
    check_every: int = 20
    losses: list[float] = field(default_factory=list, compare=False)
    checkpoints: Checkpoints = field(default_factory=NoCheckpoints, compare=False)
    _calls: Iterator[int] = field(default_factory=itertools.count, compare=False)

    def __call__(
        self,
        trained: Trained,
        loss: LossFunction,
        images: ImageSet,
        recipe: Recipe,
        *,
        generator: torch.Generator,
        augmentation: Augmentation | None = None,
        after_step: Callable[[], None] | None = None,
    ) -> list[float]:
        """Minimise the summed losses over ``images`` and return the mean loss of each epoch.

        Args:
            trained: a module, a tensor, or several of them, already on the device: all parameters of the modules, and the
                tensors, are optimised. Put modules into the mode you want before the call. Pass every module whose buffers
                the loss changes (batch norms, say) as a module: what is kept at an epoch boundary is its parameters, buffers
                and extra state, and whatever else lives between two steps is lost when a run is resumed.
            loss: batch -> named scalars; runs under the run's autocast.
            images: the training images. recipe: how long and how fast.
            generator: CPU generator; order and augmentation draw from it.
            augmentation: None trains on the images as they are.
            after_step: called after each optimiser step, e.g. to project a trigger into its bounds.

        Raises:
            DivergedError: the loss became NaN or infinite (looked at every ``check_every`` steps and each epoch's end).
        """
        parts = _parts(trained)
        parameters = _parameters(parts)
        batch_size = min(recipe.batch_size, len(images))
        per_epoch = max(1, len(images) // batch_size)
        epochs = recipe.passes(len(images))
        steps = epochs * per_epoch
        call = next(self._calls)
        history: list[float] = []
        rate = recipe.lr
        optimizer = _optimizer(parameters, recipe)
        saved = self.checkpoints.load(call)
        if saved is not None and saved.record["steps"] == steps:
            _restore(saved, parts, parameters, optimizer)
            restore_random_state(saved, generator)
            history, rate = list(saved.record["history"]), saved.record["rate"]
        done = len(history) * per_epoch
        for epoch in range(len(history), epochs):
            total = torch.zeros((), device=self.numerics.device)
            for batch in images.batches(
                batch_size, device=self.numerics.device, generator=generator, augmentation=augmentation, drop_last=True
            ):
                new_rate = recipe.rate(done, steps)
                if recipe.schedule == "steps" and new_rate != rate:
                    optimizer = _optimizer(parameters, recipe)  # momentum is forgotten at each drop, as in Heo et al.
                rate = new_rate
                for group in optimizer.param_groups:
                    group["lr"] = rate
                with self.numerics.autocast():
                    terms = loss(batch)
                value = torch.stack([term.float() for term in terms.values()]).sum()
                optimizer.zero_grad(set_to_none=True)
                value.backward()
                optimizer.step()
                if after_step is not None:
                    after_step()
                total += value.detach()
                done += 1
                shown = None
                if done % self.check_every == 0 or done % per_epoch == 0:
                    shown = float(value.detach())
                    if not math.isfinite(shown):
                        named = ", ".join(f"{k}={float(v.detach()):g}" for k, v in terms.items())
                        raise DivergedError(f"loss is not finite at step {done} of {steps} ({named}); try a smaller lr")
                self.progress.step(epoch=epoch + 1, epochs=epochs, done=done, total=steps, loss=shown, images=len(batch.labels))
            history.append(float(total) / per_epoch)
            if self.checkpoints.due():
                state = _state(parts, parameters, optimizer)
                drawn = random_state(generator)
                record = {**state.record, **drawn.record, "steps": steps, "history": history, "rate": rate}
                self.checkpoints.save(call, Checkpoint(state.tensors | drawn.tensors, record))
        self.losses.extend(history[-1:])
        return history


def _parts(trained: Trained) -> list[nn.Module | Tensor]:
    return [trained] if isinstance(trained, nn.Module | Tensor) else list(trained)


def _parameters(parts: list[nn.Module | Tensor]) -> list[Tensor]:
    found = (part.parameters() if isinstance(part, nn.Module) else [part] for part in parts)
    return list({id(p): p for group in found for p in group}.values())


def _state(parts: list[nn.Module | Tensor], parameters: list[Tensor], optimizer: torch.optim.Optimizer) -> Checkpoint:
    """Everything that the next step depends on, besides random states."""
    tensors: dict[str, Tensor] = {}
    extra: dict[str, Any] = {}
    for i, part in enumerate(parts):
        entries = part.state_dict() if isinstance(part, nn.Module) else {"": part}
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"part.{i}.{name}"] = value
            else:
                extra[f"part.{i}.{name}"] = value
    for i, p in enumerate(parameters):
        for name, value in optimizer.state.get(p, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{i}.{name}"] = value
    return Checkpoint(tensors, {"extra": extra})


@torch.no_grad()
def _restore(
    saved: Checkpoint, parts: list[nn.Module | Tensor], parameters: list[Tensor], optimizer: torch.optim.Optimizer
) -> None:
    """The inverse of :func:`_state`, in place: memory layouts stay what they are."""
    for i, part in enumerate(parts):
        prefix = f"part.{i}."
        entries = {
            k.removeprefix(prefix): v for k, v in (saved.tensors | saved.record["extra"]).items() if k.startswith(prefix)
        }
        if isinstance(part, nn.Module):
            part.load_state_dict(entries)
        else:
            part.copy_(entries[""])
    for i, p in enumerate(parameters):
        prefix = f"optimizer.{i}."
        for name, value in saved.tensors.items():
            if name.startswith(prefix):
                like = torch.empty_like(p) if value.shape == p.shape and value.ndim else torch.empty_like(value)
                optimizer.state[p][name.removeprefix(prefix)] = like.copy_(value)


def _optimizer(parameters: list[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=recipe.momentum > 0
    )
