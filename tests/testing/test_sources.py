"""The kit of datasets and networks: kdbench's own pass it, and each broken one is caught by the
check that is there for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from kdbench.cli import main
from kdbench.data.builtin import DATASETS
from kdbench.loading.choice import PluginChoice
from kdbench.loading.registry import Registry
from kdbench.models import ModelSource, create_model
from kdbench.models.builtin import MODELS
from kdbench.testing import CheckFailedError, checks_for, fresh, parametrize_with_checks, subject_of
from kdbench.testing.kit import every_check
from tests.data.conftest import signs43  # noqa: F401 - a fixture
from tests.data.pictures import save
from tests.testing import broken_datasets, broken_networks

HERE = Path(__file__).parent
FILES = tuple(HERE / f"broken_{kind}.py" for kind in ("networks", "datasets"))
BROKEN = Registry.load([], PluginChoice(files=FILES))
#: (kind, name) -> the check that must find what is wrong.
CAUGHT = {
    **{("model", cls.__name__.lower()): name for cls, name in broken_networks.CAUGHT.items()},
    **{("dataset", one.__name__): name for one, name in broken_datasets.CAUGHT.items()},
    ("dataset", "misstated"): "stated_numbers",
}


#: The smallest network of each class. The others differ in numbers of layers and channels only.
SMALLEST, DEEP = ("wrn10_1", "resnet20"), ("pyramid110", "pyramid200")
#: They have sums and sizes of their official files, which are not here.
OFFICIAL = ("cifar10", "cifar100", "flower17", "imagenet1k")


@parametrize_with_checks([*SMALLEST, "signs"])
def test_what_kdbench_brings_keeps_its_contract(check):
    check()


@pytest.mark.slow
@parametrize_with_checks(DEEP)
def test_a_deep_network_keeps_its_contract(check):
    check()


def test_no_network_and_no_dataset_is_left_out():
    with torch.device("meta"):
        classes = {name: type(create_model(name, 4)) for name in MODELS}
    assert {classes[name] for name in (*SMALLEST, *DEEP)} == set(classes.values())
    assert {"signs", "gtsrb", "imagefolder", *OFFICIAL} == set(DATASETS)


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_dataset_that_is_not_here_refuses_a_folder_without_it(name):
    bounds = checks_for(subject_of(BROKEN, "dataset", name))
    (bound,) = [bound for bound in bounds if bound.check.name == "folder"]
    bound()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    gray = iter(range(10, 255, 10))
    for part, count in (("train", 6), ("test", 3)):
        for name in ("cats", "dogs"):
            for number in range(count):
                save(folder / part / name / f"{number}.png", next(gray))
    return folder


def failures(subject):
    found = {}
    for bound in checks_for(subject):
        try:
            bound()
        except CheckFailedError as error:
            found[bound.check.name] = str(error)
        except Exception as error:
            found[bound.check.name] = type(error).__name__
    return {name: why for name, why in found.items() if why != "NotApplicableError"}


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_nothing_is_found_in_a_sound_one(kind):
    assert failures(subject_of(BROKEN, kind, "sound")) == {}


def test_nothing_is_found_in_a_network_that_gives_its_stem():
    assert failures(subject_of(BROKEN, "model", "stemmed")) == {}


def test_of_a_folder(photos):
    assert failures(subject_of(BROKEN, "dataset", "imagefolder", str(photos))) == {}


def test_of_a_part_of_gtsrb(signs43):  # noqa: F811 - the fixture
    folder = signs43.parent
    assert failures(subject_of(BROKEN, "dataset", "gtsrb", "", folder)) == {}


@pytest.mark.parametrize(("kind", "name"), CAUGHT, ids=lambda word: word)
def test_a_broken_one_is_caught(kind, name, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").touch()
    subject = subject_of(BROKEN, kind, name, "", tmp_path / "data")
    (bound,) = [b for b in checks_for(subject) if b.check.name == CAUGHT[kind, name]]
    with pytest.raises(CheckFailedError) as caught:
        bound()
    assert len(str(caught.value)) > 20


def test_every_promise_has_a_broken_one():
    promised = {
        (kind, check.name)
        for check in every_check()
        for kind in check.kinds
        if kind in ("model", "dataset")
    }
    assert {(kind, check) for (kind, _), check in CAUGHT.items()} == promised


def test_a_new_process_leaves_no_folder_of_its_own():
    subject = subject_of(BROKEN, "dataset", "sound")
    again = fresh._sourced(subject.order())
    assert again.request().cache_dir == subject.request().cache_dir
    assert "cache" not in again.kept


def test_a_note_explains_other_numbers():
    assert failures(subject_of(BROKEN, "dataset", "subset")) == {}


def test_a_known_failure_is_no_failure():
    source = ModelSource(
        lambda classes, side: broken_networks.ByBatch("mine", classes),
        known_failures={"by_image": "for a test"},
    )
    subject = subject_of(BROKEN, "model", "bybatch")
    (bound,) = [
        b
        for b in checks_for(type(subject)("mine", source, subject.plugin))
        if b.check.name == "by_image"
    ]
    assert bound.known == "for a test"
    wrong = ModelSource(source.make, known_failures={"by_imag": "misspelt"})
    with pytest.raises(CheckFailedError, match="known_failures names by_imag; there are same_seed"):
        checks_for(type(subject)("mine", wrong, subject.plugin))


def call(*arguments):
    return CliRunner().invoke(main, ["check", *map(str, arguments)])


def test_the_command(tmp_path):
    ran = call("network.sound", "network.bybatch", "--plugin-file", FILES[0])
    assert ran.exit_code == 1, ran.output
    assert "network.sound: network of local file broken_networks.py" in ran.output
    assert "failed         by_image" in ran.output
    assert ran.output.count("failed ") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["cifar10"], "dataset 'cifar10' is read from disk; pass --data-dir"),
        (["cifar10", "--data-dir", "nowhere"], "no folder nowhere"),
        (["imagefolder"], "write imagefolder:PATH"),
        (["imagefolder:nowhere"], "no folder nowhere"),
        (["signs:x"], "dataset 'signs' takes no path"),
        (["lba", "--data-dir", "x"], "--data-dir is the folder of a dataset"),
        (["timm/resnet18"], "which has no kit; `kdbench list models timm/resnet18`"),
        (["wrn16"], "unknown method, network or dataset 'wrn16'; did you mean"),
        (["network.signs"], "unknown model 'signs'"),
        (["wrn10_1.x"], "unknown variant of wrn10_1 'x'"),
        (
            [*(f"--plugin-file={file}" for file in FILES), "sound"],
            "'sound' is network and dataset; write network.sound",
        ),
    ],
)
def test_a_wrong_request_is_refused(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = call(*arguments)
    assert ran.exit_code == 2, ran.output
    assert says in " ".join(ran.output.split())
