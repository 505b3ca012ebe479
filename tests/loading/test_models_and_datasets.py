"""Networks and datasets of plugins: as good as kdbench's own."""

import json

import pandas
import pytest
import torch
from click.testing import CliRunner

from kdbench import __version__
from kdbench.bench.plan.outline import outline
from kdbench.bench.plan.teacher_reading import Stated, TeacherReading
from kdbench.bench.request.spec import RunSpec
from kdbench.cli import main
from kdbench.data import DatasetSource, dataset_names, load_dataset
from kdbench.errors import ConfigError, ContractError, DatasetError, UnknownMethodError
from kdbench.loading.choice import PluginChoice
from kdbench.loading.registry import Registry
from kdbench.models import ModelSource, create_model, model_names

#: A dataset in fewer than twenty lines, and a network, in one file.
OWN = """
import torch
from torch import nn

from kdbench.data import Augmentation, Dataset, Request, TensorImages, finish
from kdbench.hookspecs import hookimpl
from kdbench.models import ModelSource
from kdbench.models.base import FeatureModel


def load_dots(request: Request) -> Dataset:
    def draw(count, seed):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(count) % 3
        pixels = torch.randint(0, 100, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
        for k in range(3):
            pixels[labels == k, k] += 120
        return TensorImages(pixels, labels)

    return finish(
        request, name="dots", train=draw(120, 1), test=draw(60, 2),
        class_names=("red", "green", "blue"), mean=(0.3,) * 3, std=(0.2,) * 3,
        augmentation=Augmentation(pad=1, flip=True),
    )


@hookimpl
def kdbench_datasets():
    return {"dots": load_dots}


class Small(FeatureModel):
    def __init__(self, num_classes):
        super().__init__()
        self.name, self.num_classes = "small", num_classes
        self.group_channels = self.tap_channels = (4, 8, 16)
        shapes = ((3, 4, 1), (4, 8, 2), (8, 16, 2))
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, s, 1) for i, o, s in shapes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in (4, 8, 16))
        self.fc = nn.Linear(16, num_classes)

    def first_group(self, x):
        return self.convs[0](x)

    def tap(self, i, g):
        return self.norms[i](g)

    def next_group(self, i, g, tap):
        return self.convs[i + 1](tap.relu())

    def classify(self, g, tap):
        return self.fc(tap.relu().mean((2, 3)))

    def tap_norms(self):
        return tuple(self.norms)


@hookimpl
def kdbench_models():
    why = {"by_image": "for a test"}
    return {"small": ModelSource(lambda classes, side: Small(classes), known_failures=why)}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    return path


def registry(path):
    found = Registry.load([], PluginChoice(files=(path,)))
    assert found.broken == {}
    return found


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_matrix_of_ones_own(file, tmp_path):
    ran = call(
        "run",
        "--plugin-file",
        file,
        "--dataset",
        "dots",
        "--pair",
        "small-small",
        "--attack",
        "badnets",
        "--defense",
        "finetune",
        *(f"--set={name}.epochs=1" for name in ("clean", "poison", "distill", "repair")),
        "--set=min_teacher_acc=0",
        "--no-controls",
        "--out",
        tmp_path / "o",
        "--quiet",
    )
    assert ran.exit_code == 0, ran.output
    (row,) = pandas.read_csv(tmp_path / "o" / "results.csv").to_dict("records")
    assert (row["status"], row["dataset"], row["teacher"], row["n_test"]) == (
        "ok",
        "dots",
        "small",
        60,
    )
    assert row["plugins"] == (
        f"kdbench {__version__}; local file mine.py; small is known to fail by_image: for a test"
    )
    record = json.loads((tmp_path / "o" / "run.json").read_text())
    assert record["plugins"]["model.small"] == record["plugins"]["dataset.dots"]


def test_weights_of_ones_own_network(file, tmp_path):
    torch.manual_seed(0)
    torch.save(
        create_model("small", 3, image_size=16, sources=registry(file).models).state_dict(),
        tmp_path / "found.pth",
    )
    asked = [
        "import-teacher",
        tmp_path / "found.pth",
        "--dataset",
        "dots",
        "--plugin-file",
        file,
        "--store",
        tmp_path / "s",
    ]
    asked += ["--num-classes", "3"]
    short = call(*asked, "--model", "small")
    assert (short.exit_code, "--num-classes and --image-size" in short.output) == (2, True)
    wrong = call(*asked, "--model", "smal", "--image-size", "16")
    assert (wrong.exit_code, "did you mean 'small'?" in wrong.output) == (2, True)
    ran = call(*asked, "--model", "small", "--image-size", "16")
    assert ran.exit_code == 0, ran.output
    use = [
        "run",
        "--plugin-file",
        file,
        "--teacher-from",
        "found",
        "--student",
        "small",
        "--dataset",
        "dots",
        "--quiet",
        "--set=distill.epochs=1",
        "--store",
        tmp_path / "s",
    ]
    ran = call(*use, "--out", tmp_path / "o")
    assert ran.exit_code == 0, ran.output
    (row,) = pandas.read_csv(tmp_path / "o" / "results.csv").to_dict("records")
    assert (row["status"], row["attack"], row["teacher"]) == ("ok", "imported:found", "small")
    # Other code in the file may be another network, which these weights are not of.
    file.write_text(OWN + "CHANGED = True\n")
    ran = call(*use, "--out", tmp_path / "o2")
    assert (ran.exit_code, "import it again" in ran.output) == (2, True)


def test_sizes_are_kdbenchs_business(file):
    data = load_dataset("dots", sources=registry(file).datasets, train_size=30, num_classes=2)
    assert (len(data.train), len(data.test), data.num_classes) == (30, 40, 2)


def test_they_are_listed(file):
    ran = CliRunner().invoke(main, ["list", "--json", "--plugin-file", str(file)])
    found = json.loads(ran.output)
    assert {"name": "small", "about": "plugin mine"} in found["models"]
    (dots,) = (entry for entry in found["datasets"] if entry["name"] == "dots")
    assert dots["about"] == "plugin mine"
    assert {dots[number] for number in ("classes", "pixels", "train", "test")} == {None}


def test_unknown_names_know_them(file):
    found = registry(file)
    with pytest.raises(UnknownMethodError, match="did you mean 'small'"):
        create_model("smal", 3, sources=found.models)
    with pytest.raises(UnknownMethodError, match="did you mean 'dots'"):
        load_dataset("dotz", sources=found.datasets)


@pytest.mark.parametrize(
    ("hook", "says"),
    [
        (
            "kdbench_models():\n    return {'wrn28_4': print}",
            "the model 'wrn28_4' is also defined by kdbench;",
        ),
        (
            "kdbench_datasets():\n    return {'gtsrb': print}",
            "the dataset 'gtsrb' is also defined by kdbench;",
        ),
        ("kdbench_models():\n    return {'a-b': print}", "uses the name 'a-b'"),
        (
            "kdbench_models():\n    return {'a': 3}",
            "must return functions, got 3 for 'a'; a ModelSource will do as well",
        ),
        (
            "kdbench_datasets():\n    from kdbench.models import ModelSource\n"
            "    return {'a': ModelSource(3)}",
            "ModelSource: Input should be callable, got 3 (",
        ),
        (
            "kdbench_datasets():\n    from kdbench.data import DatasetSource\n"
            "    return {'a': DatasetSource(print, num_classes='many')}",
            "DatasetSource: Input should be a valid integer, unable to parse string as an integer, "
            "got 'many' for num_classes (",
        ),
        ("kdbench_datasets():\n    return ['a']", "must return a dict of names and functions"),
    ],
)
def test_a_wrong_answer_is_broken(tmp_path, hook, says):
    (tmp_path / "wrong.py").write_text(
        f"from kdbench.hookspecs import hookimpl\n@hookimpl\ndef {hook}\n"
    )
    (plugin,) = Registry.load([], PluginChoice(files=(tmp_path / "wrong.py",))).plugins
    assert plugin.status == "broken"
    assert says in plugin.cause


def test_what_they_return_is_looked_at():
    model = ModelSource(lambda classes, size: torch.nn.Linear(1, 1))
    with pytest.raises(ContractError, match="model 'x' is a Linear"):
        create_model("x", 3, sources={"x": model})
    with pytest.raises(ContractError, match="dataset 'x' is a int"):
        load_dataset("x", sources={"x": DatasetSource(lambda request: 3)})


#: A dataset that is known before it is loaded, as kdbench's own are.
KNOWN = """
from kdbench.data import DatasetSource
from kdbench.hookspecs import hookimpl


def load_dots(request):
    raise AssertionError("nobody needs its images for this")


@hookimpl
def kdbench_datasets():
    return {
        "dots": DatasetSource(
            load_dots, about="coloured dots", folder="it holds dots/", num_classes=3,
            image_size=16, train_size=120, test_size=60,
        )
    }
"""


@pytest.fixture
def known(tmp_path):
    path = tmp_path / "known.py"
    path.write_text(KNOWN)
    return path


def test_a_source_says_what_is_known_of_a_dataset(known):
    ran = CliRunner().invoke(main, ["list", "datasets", "--json", "--plugin-file", str(known)])
    assert json.loads(ran.output)["datasets"][-1] == {
        "name": "dots",
        "about": "coloured dots, --data-dir, plugin known",
        "classes": 3,
        "pixels": 16,
        "train": 120,
        "test": 60,
    }


def test_the_folder_of_a_source_is_kdbenchs_business(known, tmp_path):
    sources = registry(known).datasets
    with pytest.raises(ConfigError, match=r"--data-dir, the folder \(it holds dots/\)"):
        load_dataset("dots", sources=sources)
    with pytest.raises(DatasetError, match=r"no folder .*absent"):
        load_dataset("dots", data_dir=tmp_path / "absent", sources=sources)
    with pytest.raises(ConfigError, match="cannot be downloaded"):
        load_dataset("dots", data_dir=tmp_path, download=True, sources=sources)
    with pytest.raises(UnknownMethodError, match="'dots:x'"):
        load_dataset("dots:x", sources=sources)


def test_the_size_of_a_source_is_that_of_a_teacher_from_elsewhere(known):
    how = TeacherReading(Stated("dots"), registry(known).datasets)
    assert (how.num_classes[0], how.image_size[0]) == (3, 16)


def test_a_dataset_that_is_not_here_has_the_numbers_of_its_source(known, tmp_path):
    spec = RunSpec(attacks=("badnets",), pairs=(("wrn10_1", "wrn10_1"),), datasets=("dots",))
    everything = Registry.load(choice=PluginChoice(files=(known,)))
    found = outline(spec, everything)
    assert found.absent == ["dots"]
    assert [(part.num_classes, part.train_size) for part in found.parts] == [(3, 120)]
    fewer = spec.model_copy(update={"overrides": {"datasets.dots.train_size": "50"}})
    assert [part.train_size for part in outline(fewer, everything).parts] == [50]


def test_what_kdbench_brings_is_in_every_registry():
    for registry in (
        Registry(),
        Registry.load([]),
        Registry.load(choice=PluginChoice(only=frozenset())),
    ):
        assert list(registry.models) == model_names()
        assert tuple(registry.datasets) == dataset_names()
        assert registry.plugins == [] or {p.status for p in registry.plugins} == {"blocked"}
        assert registry.origins() == {}
        assert registry.packages() == ()
        assert registry.origin_of_model("wrn16_2") == ""
