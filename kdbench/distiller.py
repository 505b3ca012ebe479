"""What a distiller plugin subclasses."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from kdbench.method import Method, Params
from kdbench.models.base import FeatureModel
from kdbench.models.views import BatchNormMode, FrozenTeacher


class TwoStageParams(Params):
    """Parameters of a distiller that first matches the teacher and then trains for the task."""

    stages: Literal["init", "joint"] = Field(
        "init",
        description="init: the matching loss alone, then the task loss alone, as executed; joint: "
        "both all the time",
    )
    share: float = Field(
        0.111,
        gt=0,
        lt=1,
        description="init: share of the steps with the matching loss; RepDistiller: 30 epochs "
        "before 240",
    )

    def weights(self, progress: float) -> tuple[float, float]:
        """(of the task loss, of the matching loss) at a share of the steps."""
        if self.stages == "joint":
            return 1.0, 1.0
        return (0.0, 1.0) if progress < self.share else (1.0, 0.0)


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
