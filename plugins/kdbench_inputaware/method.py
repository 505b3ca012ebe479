"""Input-aware: each image has a pattern and a mask of its own, and the label is flipped.

T. A. Nguyen, A. T. Tran, "Input-Aware Dynamic Backdoor Attack", NeurIPS 2020 (arXiv:2010.08138).
Two networks G and M read an image x and give its trigger:

    p = tanh(G(x)) / 2 + 1/2,      v = tanh(M(x)) / 2 + 1/2,      m = tanh(20 v - 10) / 2 + 1/2
    x~ = x + m (p - x)

First M learns small masks that differ. x2 is another image of the batch, of which p2 and m2 are:

    M:  100 mean relu(m - 0.032) + mean of rms(x - x2) / (rms(m - m2) + 1e-7)

Then classifier f and generator G are trained, and M is not. A tenth of the images is poisoned. A
tenth are decoys (crosses): they carry the trigger of another image, and keep their label. So a
pattern works on its own image only.

    f:  CE of poisons (x~, t), decoys (x + m2 (p2 - x), y) and all others (x, y)
    G:  the same CE + lambda_div mean of rms(x - x2) / (rms(p - p2) + 1e-7)

Deviations from the paper and its code
- The gradients of G are zeroed at each step. In the code of the authors, and in BackdoorBench and
  BackdoorBox, nothing zeroes them, so Adam sees their running sum, as in ``inputaware.release``.
- The clean teacher is fine-tuned by the preset's recipe. The authors train it from scratch by SGD.
- f and G take turns on a batch, f first. While G learns, f is in evaluation mode, and sees only
  poisons and decoys. The authors sum all losses up for both.
- lambda_div weighs the diversity of masks once. The code applies it twice, which is the same at 1.
- x2 is the image before x in the batch. The authors take the batch of a second loader.
- The diversity of patterns is a mean over the whole batch.
- Rows are poisoned, or decoys, for good. Images of the target class are never poisoned.
- Distances are between pixels in [0, 1], after augmentation, which is the teacher's.
- M is trained for a number of steps. Its rate drops after 0.4 and 0.8 of them, as in the paper, and
  Adam begins anew there. G has a constant rate, as BackdoorBench has in effect.
- Upwards a level has the size of its counterpart. So a side need not be a multiple of 8.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from kdbench.attack import (
    PROBE,
    Attack,
    AttackSetting,
    Backdoor,
    choose_decoys,
    choose_poison,
    rescaled,
    universal_response,
)
from kdbench.errors import ConfigError
from kdbench.method import Info, Variant
from kdbench.training import Player, Recipe, seeded
from kdbench.triggers import NetworkTrigger
from kdbench_inputaware.losses import GradientSum, InputAwareParams, Losses
from kdbench_inputaware.networks import SMALLEST, NeighboursPattern, OwnPattern


class InputAware(Attack):
    """Train masks, then teacher and patterns in turns."""

    info = Info(
        name="inputaware",
        title="Input-Aware Dynamic Backdoor Attack",
        authors="Nguyen, Tran",
        venue="NeurIPS",
        year=2020,
        link="https://arxiv.org/abs/2010.08138",
        evidence="first-look",
    )
    Params = InputAwareParams
    zero = {"poison_rate": 0.0}
    for_checks = {"mask_steps": 20, "width": 4, "epoch_factor": 1.0}
    presets = {
        "quick": {"mask_steps": 400, "epoch_factor": 6.0},
        "standard": {},
        "paper": {"mask_steps": 9775},
    }
    variants = {
        "sham": Variant(
            "no image is poisoned: the clean teacher trained on for as long, a control",
            {"poison_rate": 0.0},
        ),
        "release": Variant(
            "the generator's gradients are summed up and never zeroed, as in the authors' code",
            {"accumulate": True},
        ),
    }

    params: InputAwareParams

    def implant(self, setting: AttackSetting) -> Backdoor:
        params, train = self.params, setting.train
        clean = replace(setting, teacher=copy.deepcopy(setting.teacher))
        own = self.networks(setting)
        is_poison, is_decoy = self.rows(setting)
        teacher = setting.teacher
        losses = Losses(params, setting.target_class, teacher, own, is_poison, is_decoy)
        self.train_masks(setting, own, losses)
        self.train_patterns(setting, own, losses)
        trigger = NetworkTrigger(own)
        others = NetworkTrigger(NeighboursPattern(own))
        spread = torch.linspace(0, len(train) - 1, min(PROBE, len(train))).long()
        seen = train.read(spread, setting.numerics.device).double()
        facts: dict[str, float | int | str] = {
            "poisons": int(is_poison.sum()),
            "decoys": int(is_decoy.sum()),
            "mean_opacity": float(trigger.network.mask(seen).mean()),
            "universal": universal_response(clean, trigger),
            # The attacked teacher's, and not the clean one's, to the pattern of another image.
            "response_to_other_patterns": universal_response(setting, others),
        }
        return Backdoor(teacher, trigger, setting.target_class, facts)

    def networks(self, setting: AttackSetting) -> OwnPattern:
        """Both with fresh weights, on the device.

        Raises:
            ConfigError: the images are too small.
        """
        height, width = setting.train.shape[1:]
        if min(height, width) < SMALLEST:
            raise ConfigError(
                f"inputaware halves an image three times, and {height}x{width} pixels are too few; "
                f"take images of {SMALLEST}x{SMALLEST} or more, with --image-size"
            )
        with seeded(int(torch.randint(1 << 62, (), generator=setting.generator))):
            return setting.numerics.place(OwnPattern(self.params.width))

    def rows(self, setting: AttackSetting) -> tuple[torch.Tensor, torch.Tensor]:
        """Which training images are poisoned, and which are decoys, both bool (N,)."""
        params, labels, generator = self.params, setting.train.labels, setting.generator
        poison = choose_poison(labels, params.poison_rate, setting.target_class, generator)
        wanted = round(params.decoy_rate * len(poison))
        decoys = choose_decoys(len(labels), poison, wanted, generator)
        row = torch.arange(len(labels))
        return torch.isin(row, poison), torch.isin(row, decoys)

    def train_masks(self, setting: AttackSetting, own: OwnPattern, losses: Losses) -> None:
        """Train the mask network. It is frozen afterwards."""
        length = {"epochs": 0, "min_steps": self.params.mask_steps}
        drops = {"schedule": "steps", "milestones": (0.4, 0.8)}
        setting.fit(
            own.masks.train(),
            losses.of_masks,
            setting.train,
            self.search(setting.recipe).model_copy(update=length | drops),
            generator=setting.generator,
            augmentation=setting.augmentation,
        )
        own.masks.eval().requires_grad_(False)

    def train_patterns(self, setting: AttackSetting, own: OwnPattern, losses: Losses) -> None:
        """Train teacher and generator in turns. The teacher is in eval mode afterwards."""
        recipe = rescaled(setting, self.params.epoch_factor).recipe
        search = self.search(recipe)
        generator, teacher = own.patterns.train(), setting.teacher.train()
        player = Player(generator, losses.of_generator, search)
        if self.params.accumulate:
            kept = GradientSum(list(generator.parameters()))
            player = Player(
                [generator, kept],
                lambda batch: {**losses.of_generator(batch), "earlier": kept.loss()},
                search,
                after_step=kept.after_step,
            )
        setting.fit.players(
            [Player(teacher, losses.of_teacher, recipe), player],
            setting.train,
            generator=setting.generator,
            augmentation=setting.augmentation,
        )
        teacher.eval()

    def search(self, recipe: Recipe) -> Recipe:
        """Adam for one of the two networks, as long as a recipe."""
        return Recipe(
            epochs=recipe.epochs,
            min_steps=recipe.min_steps,
            batch_size=recipe.batch_size,
            optimizer="adam",
            lr=self.params.lr,
            betas=(0.5, 0.9),
            weight_decay=0.0,
        )
