"""The images of a stage are a file of their own, and hold nothing that the stage may not see."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from kdbench.bench.plan.build import build_plan
from kdbench.bench.plan.machine import STAGE_CODE
from kdbench.bench.plan.prepare import Prepared
from kdbench.bench.request.spec import RunSpec
from kdbench.bench.run import runner
from kdbench.bench.run.events import Quiet
from kdbench.bench.run.folders import JobFolders
from kdbench.bench.run.jobs import Jobs
from kdbench.bench.store import images as store_images
from kdbench.bench.store.artefacts import Store
from kdbench.bench.store.images import Seen, keep_images
from kdbench.bench.work.executors.child import make_task
from kdbench.bench.work.executors.inline import InlineExecutor
from kdbench.bench.work.workbench import Workbench
from kdbench.data import Augmentation, fraction
from kdbench.data.files import image_files, load_images, save_images
from kdbench.data.fraction import drawn_share, held_out_images, others_images, provider_images
from kdbench.data.stream import StreamedImages
from kdbench.numerics import Numerics
from tests.bench.run.test_scale import part_of
from tests.bench.work.tasks import task_record
from tests.data.pictures import save, seeded

SHARE = 0.25
SHARES = ("provider", "deployer", "defender")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def batches(images):
    """Everything that a pass gives."""
    return [
        (batch.images, batch.labels, batch.positions)
        for batch in images.batches(7, generator=seeded(), augmentation=Augmentation(2))
    ]


def assert_same(images, others):
    assert images.shape == others.shape
    for some, other in zip(batches(images), batches(others), strict=True):
        for a, b in zip(some, other, strict=True):
            assert torch.equal(a, b)


def kept(store, seen, tmp_path):
    target = tmp_path / f"{os.urandom(4).hex()}.safetensors"
    keep_images(store, seen, target)
    return target


def test_each_share_is_a_file_of_its_own(store, stripes, tmp_path):
    all_splits = {
        split: Seen(stripes, split, 7, SHARE, 0.5, seed=3)
        for split in ("held out", "provider", "deployer", "defender", "test")
    }
    provider = provider_images(stripes.train, 7)
    deployer = drawn_share(provider, SHARE, 3)
    expected = {
        "held out": held_out_images(stripes.train, 7),
        "provider": provider,
        "deployer": deployer,
        "defender": drawn_share(deployer, 0.5, 3),
        "test": stripes.test,
    }
    assert {split: len(images) for split, images in expected.items()} == {
        "held out": 24,
        "provider": 216,
        "deployer": 54,
        "defender": 27,
        "test": 120,
    }
    for split, seen in all_splits.items():
        assert_same(load_images(kept(store, seen, tmp_path)), expected[split])
    assert len({seen.key for seen in all_splits.values()}) == len(list(store)) == 5


@pytest.mark.parametrize(
    ("split", "by"),
    [
        ("held out", {"data_seed"}),
        ("provider", {"data_seed"}),
        ("deployer", {"data_seed", "transfer_fraction", "seed"}),
        ("defender", {"data_seed", "transfer_fraction", "clean_fraction", "seed"}),
        ("test", set()),
    ],
)
def test_a_share_has_another_key_by_what_it_is_drawn_by(stripes, split, by):
    seen = Seen(stripes, split, 7, 0.5, 0.25, seed=3)
    others = {"data_seed": 8, "transfer_fraction": 0.2, "clean_fraction": 0.2, "seed": 4}
    changed = {name for name, v in others.items() if replace(seen, **{name: v}).key != seen.key}
    assert changed == by


def test_who_has_all_of_a_share_needs_no_further_file(stripes):
    whole = [Seen(stripes, split, seed=n) for n, split in enumerate(SHARES)]
    assert len({seen.key for seen in whole}) == 1
    half = Seen(stripes, "deployer", 0, 0.5, seed=3), Seen(stripes, "defender", 0, 0.5, seed=3)
    assert half[0].key == half[1].key


def test_a_job_gets_a_further_name_of_the_file_or_a_copy(store, stripes, tmp_path, monkeypatch):
    seen = Seen(stripes, "provider")
    linked = kept(store, seen, tmp_path)
    assert linked.samefile(store.folder(seen.key) / "images.safetensors")
    assert linked.stat().st_mode & 0o222 == 0

    def refused(*_):
        raise OSError(31, "Too many links")

    monkeypatch.setattr(os, "link", refused)
    copied = kept(store, seen, tmp_path)
    assert copied.stat().st_nlink == 1
    assert copied.read_bytes() == linked.read_bytes()


def test_damaged_images_are_written_again(store, stripes, tmp_path):
    seen = Seen(stripes, "deployer", 0, SHARE)
    path = kept(store, seen, tmp_path)
    path.chmod(0o644)
    path.write_bytes(b"?")  # a further name of what the store has
    assert_same(load_images(kept(store, seen, tmp_path)), seen.images)


def test_each_stage_gets_the_share_of_its_kind(registry, stripes, store, tmp_path):
    class Looking(InlineExecutor):
        seen = {}

        def start(self, job):
            for each in (job, *job.beside):
                path = each.folder / "in" / each.task["images"]
                self.seen.setdefault(each.kind, set()).add(len(load_images(path)))
            super().start(job)

    spec = RunSpec(
        attacks=("badnets",),
        defenses=("none", "nad", "robustkd"),
        pairs=(("wrn10_1", "wrn10_1"),),
        numerics="fp32",
        transfer_fraction=0.5,
        clean_fraction=SHARE,
        overrides={f"{part}.epochs": "1" for part in ("clean", "poison", "distill", "repair")}
        | {"defense.robustkd.steps": "2", "min_teacher_acc": "0"},
    )
    part = part_of(stripes, spec, registry)
    ready = Prepared(spec, build_plan([part]), [part], Numerics(torch.device("cpu"), False, 1))
    executor = Looking(registry)
    rows = runner.run(ready, registry, tmp_path / "run", Quiet(), store, executor)
    assert {row["status"] for row in rows} == {"ok"}
    assert executor.seen == {
        "clean": {216},
        "backdoor": {216},
        "check": {24},
        "alone": {108},
        "distill": {108},
        "cleanse": {27},
        "repair": {27},
        "evaluate": {120},
        "picture": {120},
    }


POOL = Path("in") / "pool.safetensors"


def test_a_pool_has_no_image_of_the_deployer_and_none_that_is_held_out(stripes, store, tmp_path):
    seen = Seen(stripes, "pool", 7, SHARE, 0.5, seed=3, unlabeled=0.5)
    mine = {image.numpy().tobytes() for image in load_images(kept(store, seen, tmp_path)).pixels}
    others = others_images(provider_images(stripes.train, 7), SHARE, 3)
    rest = {image.numpy().tobytes() for image in others.pixels}
    assert len(mine) == 81, "half of the 162 images of the provider that the deployer has not"
    assert mine < rest
    for split in ("held out", "deployer", "defender", "test"):
        images = Seen(stripes, split, 7, SHARE, 0.5, seed=3).images
        assert not mine & {image.numpy().tobytes() for image in images.pixels}


def test_a_pool_is_pixels_alone_in_an_order_that_tells_nothing(stripes, store, tmp_path):
    """No label, and no order of the dataset, in which the classes may follow each other."""
    order = stripes.train.labels.argsort(stable=True)
    sorted_by_class = replace(stripes, train=stripes.train.subset(order))
    seen = Seen(sorted_by_class, "pool", 7, SHARE, seed=3)
    target = kept(store, seen, tmp_path)
    pool = load_images(target)
    assert pool.labels.tolist() == [-1] * len(pool)
    digests = [hashlib.sha256(image.contiguous().numpy()).hexdigest() for image in pool.pixels]
    assert digests == sorted(digests)
    by_pixels = {
        image.numpy().tobytes(): label
        for image, label in zip(stripes.train.pixels, stripes.train.labels.tolist(), strict=True)
    }
    classes = [by_pixels[image.numpy().tobytes()] for image in pool.pixels]
    assert classes != sorted(classes)
    # A dataset in another order of its own is another set, but what is seen of it is no order.
    with safe_open(target, framework="pt") as file:
        assert set(file.keys()) == {"pixels", "labels"}


def test_a_pool_has_another_key_by_what_it_is_drawn_by(stripes):
    seen = Seen(stripes, "pool", 7, 0.5, 0.25, seed=3, unlabeled=0.5)
    others = {"data_seed": 8, "transfer_fraction": 0.2, "seed": 4, "unlabeled": 0.3}
    keys = {replace(seen, **{name: value}).key for name, value in others.items()}
    assert len(keys | {seen.key}) == 5
    assert replace(seen, clean_fraction=0.5).key == seen.key


@pytest.mark.parametrize("share", [None, 0.5])
def test_only_the_stages_of_a_defense_get_a_pool(registry, stripes, store, tmp_path, share):
    spec = RunSpec(
        attacks=("badnets",),
        defenses=("none", "finetune", "robustkd", "consistency"),
        pairs=(("wrn10_1", "wrn10_1"),),
        transfer_fraction=0.5,
        unlabeled=share,
    )
    part = part_of(stripes, spec, registry)
    ready = Prepared(spec, build_plan([part]), [part], Numerics(torch.device("cpu"), False, 1))
    folders = JobFolders(store)
    jobs = Jobs(ready, registry, store, folders, 60.0, False)
    got = {}
    for stage in ready.plan.stages.values():
        # Only its images matter here, so nothing is computed.
        job = jobs.lay_out(replace(stage, inputs={}))
        files = {path.name for path in (job.folder / "in").iterdir()}
        assert files <= {"images.safetensors", POOL.name}
        assert job.task["pool"] == (POOL.name if POOL.name in files else "")
        got[stage.title] = POOL.name in files
        if POOL.name in files:
            assert set(load_images(job.folder / POOL).labels.tolist()) == {-1}
    wanted = ("finetune: repair", "robustkd: cleanse")
    has = [title for title, with_pool in got.items() if with_pool]
    if share is None:
        assert not has
        return
    losses = [title for title in has if not title.startswith(wanted)]
    assert [title.partition(" ")[0] for title in losses] == ["distill"], "that of consistency"
    assert sum(title.startswith(wanted) for title in has) == 2


@pytest.mark.parametrize("kind", ["repair", "distill"])
def test_a_defense_gets_its_pool(registry, stripes, tmp_path, kind):
    seen = Seen(stripes, "pool", 2, 0.5, seed=5, unlabeled=0.3)
    bench = workbench(registry, stripes, tmp_path, kind, SHARE)
    assert bench.defense_setting().unlabeled is None
    keep_images(Store(tmp_path / "store"), seen, bench.task.folder / POOL)
    setting = replace(bench, task=replace(bench.task, pool=POOL.name)).defense_setting()
    assert set(setting.unlabeled.labels.tolist()) == {-1}
    assert len(setting.unlabeled) == len(seen.images)
    assert set(setting.clean.labels.tolist()) == {0, 1, 2}


def defense_images(registry, stripes, folder, kind, share):
    """What a defense gets in a stage of this kind."""
    return workbench(registry, stripes, folder, kind, share).defense_setting().clean


def workbench(registry, stripes, folder, kind, share):
    """That of a defense, in a stage of this kind."""
    recipe = {"epochs": 1, "batch_size": 8, "lr": 0.1}
    values = {"clean_fraction": share, "recipe": recipe}
    split = "defender" if kind == "repair" else "deployer"
    seen = Seen(stripes, split, 2, 0.5, share, seed=5)
    job = folder / f"job {kind}"
    for name in ("in", "box"):
        (job / name).mkdir(parents=True)
    keep_images(Store(folder / "store"), seen, job / "in" / "images.safetensors")
    task = make_task(
        task_record(
            job,
            kind,
            values=values if kind == "repair" else {"defense": values},
            seed=5,
            random_seed=1,
            stream_seed=1,
            images="images.safetensors",
            image_size=16,
            mean=[0.3] * 3,
            std=[0.25] * 3,
            pad=1,
        )
    )
    return Workbench.of(task, registry, None, {})


@pytest.mark.parametrize(
    ("kind", "share"), [("repair", SHARE), ("repair", 1.0), ("distill", SHARE)]
)
def test_a_defense_gets_the_same_images_as_ever(registry, stripes, tmp_path, kind, share):
    """The share that a process would draw by itself from the deployer's images."""
    deployer = drawn_share(provider_images(stripes.train, 2), 0.5, 5)
    clean = defense_images(registry, stripes, tmp_path, kind, share)
    assert_same(clean, drawn_share(deployer, share, 5))


def test_the_rule_of_the_shares_is_in_one_place_that_every_key_knows(
    registry, stripes, tmp_path, monkeypatch
):
    """Drawn otherwise, a repair and a defense's loss still get the same images."""

    def first_rows(images, share, seed):
        return images.subset(torch.arange(round(share * len(images))))

    def last_rows(images, share, seed):
        return images.subset(torch.arange(len(images) - round(share * len(images)), len(images)))

    assert "data/fraction.py" in STAGE_CODE
    for rule in (first_rows, last_rows):
        monkeypatch.setattr(fraction, "drawn_share", rule)
        folder = tmp_path / rule.__name__
        folder.mkdir()
        expected = Seen(stripes, "defender", 2, 0.5, SHARE, seed=5).images
        assert_same(expected, rule(rule(provider_images(stripes.train, 2), 0.5, 5), SHARE, 5))
        for kind in ("repair", "distill"):
            assert_same(defense_images(registry, stripes, folder, kind, SHARE), expected)


def test_shares_that_are_drawn_by_another_rule_are_other_files(stripes, monkeypatch):
    keys = {split: Seen(stripes, split).key for split in (*SHARES, "held out", "test")}
    monkeypatch.setattr(store_images, "_rule_of_splits", lambda: "another")
    same = {split for split, key in keys.items() if Seen(stripes, split).key == key}
    assert same == {"test"}


# -- streamed sets --------------------------------------------------------------------------------


def streamed(paths):
    return StreamedImages(paths, torch.arange(len(paths)) % 3, 8, workers=0)


def pictures(folder, count, level=0):
    paths = [folder / f"{n:02d}.png" for n in range(count)]
    for n, path in enumerate(paths):
        save(path, level + n)
    return [str(path) for path in paths]


def of_files(stripes, train, test):
    return replace(stripes, train=train, test=test)


def test_a_streamed_file_names_the_images_of_its_split_only(stripes, tmp_path):
    paths = pictures(tmp_path / "all", 10)
    everything = streamed(paths)
    train, test = everything.subset(torch.arange(7)), everything.subset(torch.tensor([8, 7, 9, 8]))
    extra = torch.rand(2, 3, 8, 8)
    grown = test.extended(extra, torch.tensor([0, 1])).subset(torch.tensor([5, 0, 4, 1]))
    for images, used in ((train, paths[:7]), (test, paths[7:]), (grown, paths[7:9])):
        assert image_files(images) == used
        save_images(images, tmp_path / "images.safetensors")
        data = (tmp_path / "images.safetensors").read_bytes()
        assert [path for path in paths if path.encode() in data] == used
        back = load_images(tmp_path / "images.safetensors")
        back._workers = 0
        assert_same(back, images)
        more = torch.tensor([2])
        assert_same(back.extended(extra[:1], more), images.extended(extra[:1], more))


def test_a_stage_may_open_single_files_where_splits_share_a_folder(stripes, tmp_path):
    paths = pictures(tmp_path / "all", 10)
    everything = streamed(paths)
    shared = of_files(
        stripes, everything.subset(torch.arange(7)), everything.subset(torch.arange(7, 10))
    )
    for split, count in (("provider", 4), ("held out", 3), ("test", 3)):
        seen = Seen(shared, split)
        assert [str(path) for path in seen.reads] == image_files(seen.images)
        assert len(seen.reads) == count


def test_a_stage_may_open_a_folder_that_holds_nothing_else(stripes, tmp_path):
    train, test = pictures(tmp_path / "train", 9), pictures(tmp_path / "test", 3)
    apart = of_files(stripes, streamed(train), streamed(test))
    # What is held out lies there too: a name for each of a million files would be too many.
    assert Seen(apart, "provider").reads == (tmp_path / "train",)
    assert Seen(apart, "test").reads == (tmp_path / "test",)
    everything = Seen(apart, "deployer", 0, 0.5, seed=1)  # two images of each class at least
    assert everything.reads == (tmp_path / "train",)


@pytest.mark.parametrize("fractions", [(0.5, 1.0), (1.0, 0.5)])
def test_the_defenders_side_cannot_open_the_rest_of_the_providers_images(
    stripes, tmp_path, fractions
):
    train, test = pictures(tmp_path / "many", 60), pictures(tmp_path / "test", 3)
    many = of_files(stripes, streamed(train), streamed(test))
    share = Seen(many, "defender", 0, *fractions, seed=1)
    assert [str(path) for path in share.reads] == image_files(share.images)
    assert len(share.reads) == 27


def test_a_pool_of_a_streamed_set_is_pixels_and_no_path(stripes, tmp_path, store):
    """A path may name the class."""
    train, test = pictures(tmp_path / "many", 60), pictures(tmp_path / "test", 3)
    many = of_files(stripes, streamed(train), streamed(test))
    seen = Seen(many, "pool", 0, 0.5, seed=1, unlabeled=0.5)
    data = (target := kept(store, seen, tmp_path)).read_bytes()
    assert seen.reads == ()
    assert not any(path.encode() in data for path in train)
    pool = load_images(target)
    found = {image.numpy().tobytes() for image in pool.pixels}
    assert found == {image.numpy().tobytes() for image in seen.images.decoded().pixels}
    assert len(found) == len(pool) > 0
    assert set(pool.labels.tolist()) == {-1}


def test_a_folder_with_the_other_split_below_it_is_no_folder_to_open(stripes, tmp_path):
    train, test = pictures(tmp_path / "set", 3), pictures(tmp_path / "set" / "a" / "test", 3)
    nested = of_files(stripes, streamed(train), streamed(test))
    assert [str(path) for path in Seen(nested, "provider").reads] == train
    assert Seen(nested, "test").reads == (tmp_path / "set" / "a" / "test",)


def test_a_stage_may_open_what_a_linked_image_leads_to(stripes, tmp_path):
    train, test = pictures(tmp_path / "train", 3), pictures(tmp_path / "test", 3)
    (elsewhere,) = pictures(tmp_path / "elsewhere", 1)
    link = tmp_path / "train" / "z.png"
    link.symlink_to(elsewhere)
    linked = of_files(stripes, streamed([*train, str(link)]), streamed(test))
    assert Seen(linked, "provider").reads == (Path(elsewhere), tmp_path / "train")
    assert Seen(linked, "test").reads == (tmp_path / "test",)


def test_a_stage_needs_no_folder_on_the_way_to_what_a_link_leads_to(stripes, tmp_path, store):
    train, test = pictures(tmp_path / "train", 3), pictures(tmp_path / "test", 3)
    (elsewhere,) = pictures(tmp_path / "elsewhere", 1)
    (tmp_path / "way").symlink_to(tmp_path / "elsewhere")
    link = tmp_path / "train" / "z.png"
    link.symlink_to(tmp_path / "way" / os.path.basename(elsewhere))
    seen = Seen(of_files(stripes, streamed([*train, str(link)]), streamed(test)), "provider")
    keep_images(store, seen, tmp_path / "kept")
    assert Path(elsewhere) in seen.reads  # and one image of the two of its class is held out
    assert image_files(load_images(tmp_path / "kept")) == [*train[1:], str(elsewhere)]


def test_a_list_of_files_in_an_older_form_is_not_taken(stripes, tmp_path, monkeypatch):
    files = pictures(tmp_path / "train", 3), pictures(tmp_path / "test", 3)
    dataset = of_files(stripes, *map(streamed, files))
    keys = [Seen(data, "provider").key for data in (dataset, stripes)]
    monkeypatch.setattr("kdbench.bench.store.images.LIST_FORM", "another")
    new = [Seen(data, "provider").key for data in (dataset, stripes)]
    assert new[0] != keys[0]
    assert new[1] == keys[1]


def test_images_in_memory_need_no_further_file(stripes):
    assert Seen(stripes, "provider").reads == ()
