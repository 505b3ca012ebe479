"""What a distiller plugin subclasses."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import nn

from kdbench.method import Method
from kdbench.models.base import FeatureModel
from kdbench.models.views import BatchNormMode, FrozenTeacher


class Distiller(Method):
    """Says how far a student is from its teacher; the core's loop does the rest."""

    kind = "distiller"
    #: How the frozen teacher's batch norms run while distilling; a distiller may make it a
    #: parameter.
    teacher_batch_norm: ClassVar[BatchNormMode] = "running"

    def batch_norm_mode(self) -> BatchNormMode:
        """The teacher's batch-norm mode for these parameters."""
        return self.teacher_batch_norm

    @abstractmethod
    def objective(self, teacher: FrozenTeacher, student: FeatureModel) -> nn.Module:
        """Return a module that owns the connectors it needs (trained with the student, then thrown
        away).

        Its ``forward(batch: Batch, teacher_out: FeatureOutput, student_out: FeatureOutput)``
        returns a dict of named scalar losses, float32, the task loss (cross-entropy) included. It
        must not hold the teacher or the student as submodules. Connectors are initialised from
        torch's global random state, which the core seeds. Whatever it keeps between two batches is
        a parameter, a buffer or extra state (``get_extra_state``): training is taken up from these.
        """
