"""From a request to data: whose sizes count."""

from __future__ import annotations

from kdbench.bench.plan import prepare
from kdbench.bench.plan.outline import outline
from kdbench.bench.request.spec import RunSpec, resolve
from kdbench.bench.store.artefacts import Store
from kdbench.data.builtin import DATASETS
from kdbench.data.gtsrb import OFFICIAL_TEST, OFFICIAL_TRAIN


def request(**fields):
    return RunSpec(**({"attacks": ("badnets",), "pairs": (("wrn10_1", "wrn10_1"),)} | fields))


def sizes(registry, **fields):
    """(training images, test images, classes, pixels) of what a request loads."""
    spec = request(test_size=20, **fields)
    data = prepare.load(spec, resolve(spec, registry))
    return len(data.train), len(data.test), data.num_classes, data.image_size


def test_the_request_wins_over_the_preset_and_the_preset_over_the_dataset(registry):
    assert sizes(registry, train_size=30) == (30, 20, 10, 16)
    overrides = {"datasets.signs.train_size": "40", "datasets.signs.num_classes": "5"}
    assert sizes(registry, overrides=overrides) == (40, 20, 5, 16)
    assert sizes(registry, overrides=overrides, train_size=30) == (30, 20, 5, 16)


def test_a_preset_has_sizes_for_any_dataset(registry, tmp_path):
    for name in ("train", "test"):
        for label in ("cat", "dog"):
            _pictures(tmp_path / name / label, 6)
    asked = {"datasets": (f"imagefolder:{tmp_path}",), "image_size": 8, "test_size": None}
    spec = request(**{**asked, "overrides": {"datasets.imagefolder.train_size": "4"}})
    data = prepare.load(spec, resolve(spec, registry))
    assert (len(data.train), len(data.test)) == (4, 12)


def test_each_part_holds_its_dataset(registry, tmp_path):
    spec = request(presets=("quick", "standard"), train_size=20, test_size=20)
    ready = prepare.prepare(spec, registry, Store(tmp_path))
    assert [part.resolved.preset_name for part in ready.parts] == ["quick", "standard"]
    for part in ready.parts:
        assert part.train_digest == part.dataset.train_digest
        assert part.dataset_name == part.dataset.name == "signs"
    assert [part.dataset.image_size for part in ready.parts] == [16, 32]
    assert {stage.part for stage in ready.plan.stages.values()} == {0, 1}


def test_what_is_not_here_is_counted_on(registry):
    spec = request(datasets=("signs", "gtsrb"), train_size=20, test_size=20)
    found = outline(spec, registry)
    assert found.absent == ["gtsrb"]
    signs, gtsrb = found.parts
    assert (signs.train_size, gtsrb.train_size, gtsrb.num_classes) == (20, 20, 43)


def test_the_numbers_of_the_sources_are_the_loaders(registry):
    gtsrb, signs = DATASETS["gtsrb"], DATASETS["signs"]
    assert (gtsrb.train_size, gtsrb.test_size) == (OFFICIAL_TRAIN, OFFICIAL_TEST)
    data = signs.load(_nothing_asked())
    drawn = len(data.train), len(data.test), data.num_classes, data.image_size
    assert drawn == (signs.train_size, signs.test_size, signs.num_classes, signs.image_size)


def _nothing_asked():
    from pathlib import Path

    from kdbench.data import DatasetRequest

    return DatasetRequest(
        name="signs",
        data_dir=None,
        download=False,
        seed=0,
        image_size=DATASETS["signs"].image_size,
        num_classes=None,
        train_size=None,
        test_size=None,
        cache_dir=Path(),
    )


def _pictures(folder, count):
    from PIL import Image

    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
