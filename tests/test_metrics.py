"""The metrics against predictors whose numbers are known."""

import pytest
import torch

from kdbench.data.tensor import TensorImages
from kdbench.errors import ConfigError, ContractError, DivergedError
from kdbench.metrics import (
    Answer,
    Rate,
    among_others,
    count,
    evaluate,
    measure,
    network_of,
    predictions,
)
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


def numbered(count=600):
    """Images that tell their number: two pixels hold it, and a third one is free for a trigger."""
    pixels = torch.zeros(count, 3, 4, 4, dtype=torch.uint8)
    pixels[:, 0, 0, 0] = torch.arange(count) % 256
    pixels[:, 0, 0, 1] = torch.arange(count) // 256
    return TensorImages(pixels, torch.arange(count) % 5)


def numbers_of(images):
    pixels = (images * 255).round().long()
    return pixels[:, 0, 0, 0] + 256 * pixels[:, 0, 0, 1]


class Spy:
    """A network that notes what it sees."""

    def __init__(self):
        self.seen, self.stamped = [], []

    def __call__(self, images):
        numbers = numbers_of(images)
        self.seen += numbers.tolist()
        self.stamped += (images[:, 1, 3, 3] > 0.5).tolist()
        logits = torch.nn.functional.one_hot(numbers % 5, 5).float()
        return Answer(logits, numbers.float())


def white_corner(images):
    images = images.clone()
    images[:, 1, 3, 3] = 1
    return images


def test_a_copy_of_a_network_sees_each_image_once_and_at_random():
    """So it cannot compare the two, and its place says nothing."""
    test, stamped = numbered(), []

    def trigger(images):
        stamped.extend(numbers_of(images).tolist())
        return white_corner(images)

    first, second = Spy(), Spy()
    measured = measure((first, second), trigger, test, Numerics())
    everything = list(range(600))
    assert sorted(first.seen) == sorted(second.seen) == sorted(stamped) == everything
    assert everything not in (first.seen, stamped)
    for spy in (first, second):
        assert 200 < sum(spy.stamped) < 400, "about half of them carry the trigger"
    with_trigger = [
        {n for n, is_stamped in zip(spy.seen, spy.stamped, strict=True) if is_stamped}
        for spy in (first, second)
    ]
    assert with_trigger[0] | with_trigger[1] == set(everything)
    assert not with_trigger[0] & with_trigger[1]
    assert measured.plain.tolist() == measured.triggered.tolist() == [n % 5 for n in everything]
    assert measured.variance.tolist() == measured.variance_triggered.tolist() == everything
    again = Spy()
    measure((again, Spy()), white_corner, test, Numerics())
    assert again.seen != first.seen
    assert again.stamped != first.stamped


def test_the_seed_of_a_stage_does_not_give_the_order_away():
    """A plugin knows every seed of a run."""
    orders = []
    for _ in range(2):
        torch.manual_seed(0)
        spy = Spy()
        predictions(spy, numbered(), Numerics())
        orders.append(spy.seen)
    assert orders[0] != orders[1]


def test_the_order_changes_no_number(stripes):
    """A last batch that is smaller, and a network whose numbers are not round."""
    from kdbench.models import create_model

    torch.manual_seed(0)
    model = create_model("wrn10_1", 3).eval()
    images = stripes.test.read(torch.arange(120))
    with torch.inference_mode():
        plain, marked = model.features(images), model.features(white_corner(images))
    from kdbench.variance import variance_of_each

    for _ in range(3):
        network = network_of(model, Numerics())
        measured = measure((network, network), white_corner, stripes.test, Numerics(), 50)
        assert torch.equal(measured.plain, plain.logits.argmax(1))
        assert torch.equal(measured.triggered, marked.logits.argmax(1))
        for ours, out in ((measured.variance, plain), (measured.variance_triggered, marked)):
            torch.testing.assert_close(ours, variance_of_each(out.groups[-1]))


def test_each_image_is_read_once(stripes, monkeypatch):
    reads = []
    plain = TensorImages.batches

    def counted(self, *arguments, **named):
        for batch in plain(self, *arguments, **named):
            reads.append(len(batch.images))
            yield batch

    monkeypatch.setattr(TensorImages, "batches", counted)
    spy = Spy()
    measure((spy, spy), white_corner, numbered(), Numerics(), 100)
    assert reads == [100] * 6


def test_outputs_that_are_not_finite_are_no_measurement(stripes):
    def broken(images):
        return Answer(torch.full((len(images), 3), float("nan")), torch.zeros(len(images)))

    with pytest.raises(DivergedError):
        measure((broken, broken), white_corner, stripes.test, Numerics())
    with pytest.raises(DivergedError):
        predictions(broken, stripes.test, Numerics())


def test_a_trigger_of_another_type_is_a_broken_contract(stripes):
    with pytest.raises(ContractError, match="must keep"):
        measure((Spy(), Spy()), lambda x: x.double(), stripes.test, Numerics())


def test_rows_among_others():
    rows = torch.tensor([3, 5, 7])
    mixed, places = among_others(rows, 100, 20)
    assert mixed[places].tolist() == [3, 5, 7]
    assert len(mixed) == len(set(mixed.tolist())) == 20
    assert mixed.tolist()[:3] != [3, 5, 7] or among_others(rows, 100, 20)[1].tolist() != [0, 1, 2]
    few, places = among_others(rows, 10, 20)
    assert sorted(few.tolist()) == list(range(10))
    assert few[places].tolist() == [3, 5, 7]
