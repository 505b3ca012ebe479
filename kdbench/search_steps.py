"""The steps of a search beside the teacher, such as that of a trigger, and what it is pushed by."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from kdbench.attack import AttackSetting
from kdbench.training import LossFunction, Recipe, Trained

#: Steps of :func:`fit_steps` between two looks at whether they are enough.
LOOK = 20


def target_loss(logits: Tensor, target_class: int) -> Tensor:
    """The mean of -log p_target over logits (N, K): what a trigger is searched with.

    It is the cross-entropy against the target class. But no label is trained on here, and the kit
    takes each target of ``cross_entropy`` for one.
    """
    return -logits.float().log_softmax(1)[:, target_class].mean()


def fit_steps(
    setting: AttackSetting,
    trained: Trained,
    loss: LossFunction,
    rows: Tensor,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    after_step: Callable[[], None] | None = None,
    until: Callable[[], bool] | None = None,
) -> None:
    """Train something beside the teacher, such as a trigger, for a number of Adam steps.

    Args:
        trained: as for the loop; see :class:`kdbench.training.Fit`.
        loss: batch -> named scalars.
        rows: int64, the training images that it sees, augmented.
        steps: 0 trains nothing.
        lr: Adam's learning rate.
        after_step: as for the loop.
        until: asked every :data:`LOOK` steps, at which Adam begins anew. True ends the training.
    """
    for done in range(0, steps, LOOK if until else max(1, steps)):
        # One pass over repeated rows, so that the number of steps does not depend on the size of
        # the set.
        wanted = min(LOOK if until else steps, steps - done) * batch_size
        setting.fit(
            trained,
            loss,
            setting.train.subset(rows.repeat(-(-wanted // len(rows)))[:wanted]),
            Recipe(epochs=1, batch_size=batch_size, optimizer="adam", lr=lr, weight_decay=0),
            generator=setting.generator,
            augmentation=setting.augmentation,
            after_step=after_step,
        )
        if until is not None and until():
            return
