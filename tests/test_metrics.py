"""The metrics against predictors whose numbers are known."""

import pytest
import torch

from kdbench.errors import ConfigError, ContractError
from kdbench.metrics import Rate, count, evaluate
from kdbench.numerics import Numerics

LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 2, 1, 0, 1])


def test_a_constant_predictor_has_full_asr_and_the_targets_share_as_accuracy():
    constant = torch.zeros_like(LABELS)
    result = count(constant, constant, LABELS, target_class=0)
    assert (result.asr.percent, result.asr.total) == (100.0, 7)
    assert result.acc.percent == pytest.approx(30.0)
    assert result.base.percent == 100.0
    assert result.ra.percent == 0.0


def test_a_trigger_blind_perfect_predictor_has_no_asr():
    result = count(LABELS, LABELS, LABELS, target_class=0)
    assert (result.acc.percent, result.asr.percent, result.ra.percent, result.base.percent) == (
        100.0,
        0.0,
        100.0,
        0.0,
    )


def test_images_of_the_target_class_never_count_as_hits():
    plain = LABELS.clone()
    triggered = LABELS.clone()
    triggered[2] = 0  # one of seven others
    assert count(plain, triggered, LABELS, 0).asr == Rate(1, 7)


@pytest.mark.parametrize("classes", [10, 43])
def test_every_image_outside_the_target_is_triggered_whatever_the_number_of_classes(
    stripes, classes
):
    """The released code triggers only a tenth of CIFAR-10's test set because 100 classes are
    hard-coded."""
    labels = torch.arange(4 * classes) % classes
    images = stripes.test.read(torch.arange(1)).mul(0)
    from kdbench.data.tensor import TensorImages

    test = TensorImages((images * 255).to(torch.uint8).repeat(len(labels), 1, 1, 1), labels)

    def predict(x):  # sees the trigger (white pixel) and answers class 0, otherwise class 1
        white = (x[:, 0, 0, 0] > 0.5).long()
        return torch.nn.functional.one_hot(1 - white, classes).float()

    def trigger(x):
        x = x.clone()
        x[:, :, 0, 0] = 1
        return x

    result = evaluate(predict, trigger, test, 0, Numerics(), batch_size=7)
    assert result.asr == Rate(4 * classes - 4, 4 * classes - 4)
    assert result.base.hits == 0


def test_wilson_interval_is_the_textbook_one():
    # Wilson 95 % for 8 of 10: centre (p + z^2/2n)/(1 + z^2/n), z = 1.959964
    low, high = Rate(8, 10).interval
    assert (low, high) == (pytest.approx(49.02, abs=0.01), pytest.approx(94.33, abs=0.01))


def test_no_image_outside_the_target_is_an_error():
    zeros = torch.zeros(3, dtype=torch.long)
    with pytest.raises(ConfigError, match="ASR is undefined"):
        count(zeros, zeros, zeros, 0)


def test_a_trigger_that_leaves_the_range_is_a_broken_contract(stripes):
    with pytest.raises(ContractError, match=r"range \[0, 1\]"):
        evaluate(lambda x: torch.zeros(len(x), 3), lambda x: x + 1, stripes.test, 0, Numerics())


def test_an_attack_on_one_source_class_is_measured_on_that_class():
    triggered = LABELS.clone()
    triggered[LABELS == 2] = 0
    result = count(LABELS, triggered, LABELS, 0, source_classes=(2,))
    assert (result.asr, result.ra, result.base) == (Rate(3, 3), Rate(0, 3), Rate(0, 3))
    assert result.acc == Rate(10, 10)
    with pytest.raises(ConfigError, match=r"source classes \[0\]"):
        count(LABELS, triggered, LABELS, 0, source_classes=(0,))
