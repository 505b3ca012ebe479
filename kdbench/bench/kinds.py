"""The kinds of stage: what each of them is called, on whose side it runs, what it sees and leaves.

A kind that is not in this table cannot be planned, sent to a process or shown. Nothing here imports
torch, so that plans and displays can read the table.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from kdbench.bench import keys
from kdbench.errors import unknown

#: Whose stage it is in the threat model. The two sides never share a process.
Side = Literal["attacker", "defender"]
#: Images that the process of a stage may open. All but the test images are training images.
#: held out: nobody trains on them. provider: all others.
#: deployer: a share of the provider's. defender: a share of the deployer's.
Split = Literal["held out", "provider", "deployer", "defender", "test"]
#: What a stage of a defense may open beside them, without labels: others of the provider's.
Pool = Literal["pool"]
#: recipe: trains by the recipe in its values, so that its images can be counted.
#: method: trains in the way of a method.
#: none: trains nothing, draws no random numbers and takes about a second.
Training = Literal["recipe", "method", "none"]


class Kind(StrEnum):
    """A kind of stage. Its text is the name that keys, records and files use."""

    #: On whose side it runs.
    side: Side
    #: The images that its process may open.
    sees: Split
    #: How it trains.
    training: Training
    #: Name of the function in kdbench.bench.work.stages that computes it.
    function: str
    #: Names of the files that it leaves: these, and no others, become its artefact.
    files: tuple[str, ...]

    def __new__(
        cls, name: str, side: Side, sees: Split, training: Training, function: str, *files: str
    ) -> Kind:
        kind = str.__new__(cls, name)
        kind._value_ = name
        kind.side, kind.sees, kind.training, kind.function = side, sees, training, function
        kind.files = files
        return kind

    # name, side, sees, training, function, files
    CLEAN = "clean", "attacker", "provider", "recipe", "train_clean", keys.MODEL
    ALONE = "alone", "attacker", "deployer", "recipe", "train_clean", keys.MODEL
    IMPORTED = "imported", "attacker", "provider", "none", "imported", keys.MODEL
    BACKDOOR = "backdoor", "attacker", "provider", "recipe", "backdoor", keys.MODEL, keys.TRIGGER
    CHECK = "check", "attacker", "held out", "none", "check_teacher"
    CLEANSE = "cleanse", "defender", "defender", "method", "cleanse", keys.MODEL
    DISTILL = "distill", "defender", "deployer", "recipe", "distill", keys.MODEL
    REPAIR = "repair", "defender", "defender", "recipe", "repair", keys.MODEL
    EVALUATE = "evaluate", "attacker", "test", "none", "evaluate_network"
    PICTURE = "picture", "attacker", "test", "none", "picture", keys.PICTURE

    @classmethod
    def named(cls, name: str) -> Kind:
        """The kind of that name.

        Raises:
            ValueError: there is none.
        """
        # Type checkers take Kind(name) for a call of __new__, which needs more arguments.
        for kind in cls:
            if kind.value == name:
                return kind
        return cls._missing_(name)

    @classmethod
    def _missing_(cls, value: object) -> Kind:
        hint = "add it to the table in kdbench/bench/kinds.py"
        raise ValueError(unknown("kind of stage", str(value), [kind.value for kind in cls], hint))
