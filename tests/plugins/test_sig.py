"""SIG: the stripes by hand, on images of the target class alone, whose labels stay."""

from __future__ import annotations

import pytest
import torch
from kdbench_sig import kdbench_attacks
from kdbench_sig.method import SIG, SIGParams

from kdbench.attack import PoisonedImages
from tests.plugins.attack_setting import TARGET, counted, heard_labels, setting


def test_hook_and_presets():
    assert kdbench_attacks() == [SIG]
    for changes in SIG.presets.values():
        assert SIGParams(**changes).poison_fraction == 0.8


def test_the_stripes_by_hand():
    stripes = SIG().stripes((3, 32, 32))
    torch.testing.assert_close(stripes, stripes[:1, :1].expand(3, 32, 32))
    row = 255 * stripes[0, 0]
    # 40 sin(2 pi 6 j / 32)
    expected = torch.tensor([0.0, 36.955, 28.284, -15.307, -40.0, -15.307])
    torch.testing.assert_close(row[:6], expected, rtol=0, atol=1e-3)
    assert float(row.sum()) == pytest.approx(0, abs=1e-3)
    assert float(row.square().mean().sqrt()) == pytest.approx(28.284, abs=1e-3)
    # The period is W / 6 = 5.33 pixels, so three periods are 16 pixels.
    torch.testing.assert_close(row[:16], row[16:], rtol=0, atol=1e-3)
    assert not torch.allclose(row[:8], row[8:16], atol=1.0)


def test_there_are_as_many_stripes_at_every_size():
    small, large = (SIG().stripes((3, side, side))[0, 0] for side in (16, 32))
    torch.testing.assert_close(small, large[::2], rtol=0, atol=1e-6)


def test_the_image_is_clipped():
    """Four stripes over 16 pixels: 0, 1, 0, -1, 0, ..."""
    trigger = SIG(SIGParams(delta=1.0, frequency=4)).implant(setting(tune=0)).trigger
    shown = trigger(torch.full((1, 3, 16, 16), 0.25))
    torch.testing.assert_close(
        shown[0, 0, 0, :4], torch.tensor([0.25, 1.0, 0.25, 0.0]), rtol=0, atol=1e-6
    )


def test_no_label_is_changed(monkeypatch):
    given, heard = setting(batch=1000), heard_labels(monkeypatch)
    facts = SIG().implant(given).facts
    targets = counted(given.train.labels)[TARGET]
    assert facts["poisons"] == round(0.8 * targets)
    assert facts["labels_changed"] == 0
    assert counted(heard) == counted(given.train.labels)


@pytest.mark.parametrize(("fraction", "rows"), [(0.0, 0), (0.5, 10), (1.0, 20)])
def test_only_the_target_class_is_striped(monkeypatch, fraction, rows):
    seen, build = [], PoisonedImages.build
    monkeypatch.setattr(
        PoisonedImages, "build", lambda *a, **k: seen.append(build(*a, **k)) or seen[-1]
    )
    given = setting(tune=0)
    SIG(SIGParams(poison_fraction=fraction)).implant(given)
    (poisoned,) = seen
    assert len(poisoned.is_poison) == 200
    assert int(poisoned.is_poison.sum()) == rows
    assert (given.train.labels[poisoned.is_poison] == TARGET).all()


def test_the_teacher_learns_the_stripes():
    """That it obeys them is not asserted: a clean-label attack needs more images than these."""
    plain, striped = (
        SIG(SIGParams(poison_fraction=fraction)).implant(setting(seed=1)).teacher
        for fraction in (0.0, 1.0)
    )
    assert not torch.equal(plain.fc.weight, striped.fc.weight)
