"""From a request to data: whose sizes count."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kdbench.bench.plan import prepare
from kdbench.bench.plan.images import image_size_from
from kdbench.bench.plan.outline import outline
from kdbench.bench.request.spec import RunSpec, resolve
from kdbench.bench.request.specfile import write_spec
from kdbench.bench.run.record import record_of
from kdbench.bench.store.artefacts import Store
from kdbench.data import DatasetSource, load
from kdbench.data.builtin import DATASETS
from kdbench.data.gtsrb import OFFICIAL_TEST, OFFICIAL_TRAIN
from kdbench.errors import ConfigError


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
    spec = request(presets=("quick", "standard"), train_size=40, test_size=20)
    ready = prepare.prepare(spec, registry, Store(tmp_path))
    assert [part.resolved.preset_name for part in ready.parts] == ["quick", "standard"]
    for part in ready.parts:
        assert part.train_digest == part.dataset.train_digest
        assert part.dataset_name == part.dataset.name == "signs"
    assert [part.dataset.image_size for part in ready.parts] == [16, 32]
    assert {stage.part for stage in ready.plan.stages.values()} == {0, 1}


def test_a_set_with_one_image_a_class_is_refused(registry, tmp_path):
    spec = request(train_size=10, test_size=20)
    with pytest.raises(ConfigError, match="10 training images, no two of them of one class"):
        prepare.load(spec, resolve(spec, registry))
    # Nobody here trains an imported teacher, so nothing is checked.
    imported = request(attacks=(), teacher_from=("x",), train_size=10, test_size=20)
    assert len(prepare.load(imported, resolve(imported, registry)).train) == 10


def test_a_pool_without_images_is_refused_and_so_is_one_that_is_too_large(
    registry, tmp_path, monkeypatch
):
    def prepared(**asked):
        return prepare.prepare(
            request(train_size=40, test_size=20, unlabeled=0.3, **asked), registry, Store(tmp_path)
        )

    with pytest.raises(ConfigError, match="no image of signs is left without labels, since"):
        prepared(transfer_fraction=1.0)
    (described,) = prepared(transfer_fraction=0.5).descriptions()
    assert described.shares.unlabeled == 10
    monkeypatch.setattr(load, "MEMORY_LIMIT", 1000)
    with pytest.raises(ConfigError, match="10 images of 16x16 take more than 1000 bytes, and"):
        prepared(transfer_fraction=0.5)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"image_size": 16}, "as requested"),
        ({}, "the default of signs in preset quick; --image-size changes it"),
        (
            {"overrides": {"datasets.signs.image_size": "24"}},
            "the default of signs in preset quick; --image-size changes it",
        ),
    ],
    ids=["requested", "preset", "set"],
)
def test_who_chose_the_size_of_the_images(registry, asked, said):
    assert image_size_from(resolve(request(**asked), registry)) == said


def test_a_size_may_be_the_default_of_the_dataset(registry, tmp_path):
    resolved = resolve(request(datasets=(f"imagefolder:{tmp_path}",)), registry)
    assert image_size_from(resolved) == "the default of imagefolder; --image-size changes it"
    plain = DatasetSource(lambda _: pytest.fail("it was loaded"))
    assert image_size_from(replace(resolved, source=plain)) == ""


def test_a_record_and_a_plan_describe_each_dataset(registry, tmp_path):
    for name in ("train", "test"):
        for label in ("cat", "dog"):
            _pictures(tmp_path / "set" / name / label, 6)
    (tmp_path / "set" / "train" / "dog" / "x.gif").write_bytes(b"")
    fields = {"datasets": (f"imagefolder:{tmp_path / 'set'}",), "image_size": 8}
    ready = prepare.prepare(
        request(presets=("quick", "standard"), test_size=None, **fields), registry, Store(tmp_path)
    )
    (description,) = ready.descriptions()
    (entry, other) = record_of(ready, registry)["datasets"]
    assert entry == other
    assert entry["images"] == description.as_dict()
    assert entry["images"]["class_names"] == ("cat", "dog")
    assert entry["images"]["image_size_from"] == "as requested"
    assert entry["images"]["left_out"][0]["reason"] == "suffix .gif"


def test_a_record_has_the_request_as_a_file_and_the_papers_of_its_methods(registry, tmp_path):
    also = ({"defenses": ("nad",)},)
    spec = request(defenses=("none", "robustkd.eq15"), also=also)
    record = record_of(prepare.prepare(spec, registry, Store(tmp_path)), registry)
    assert record["spec"] == write_spec(spec)
    papers = record["papers"]
    names = ["attack.badnets", "defense.nad", "defense.none", "defense.robustkd", "distiller.fkd"]
    assert sorted(papers) == names
    assert papers["attack.badnets"]["title"].startswith("BadNets: ")
    assert set(papers["attack.badnets"]) == {"name", "title", "authors", "venue", "year", "link"}


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
