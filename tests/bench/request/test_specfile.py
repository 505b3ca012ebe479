"""A spec file and the command line say the same things."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from kdbench.bench.request.specfile import read_spec, write_spec
from kdbench.bench.session.request import build_spec
from kdbench.bench.store.artefacts import Store
from kdbench.cli import main
from kdbench.errors import ConfigError

pytestmark = pytest.mark.usefixtures("signs_once")
SHIPPED = sorted((Path(__file__).parents[3] / "benchmarks/specs").glob("*.toml"))
FILE = """
attacks = ["lba", "badnets"]
defenses = "all"
pairs = ["wrn16_2-wrn16_1", ["timm/resnet18", "wrn10_1"]]
datasets = ["signs"]
presets = ["quick", "standard"]
seeds = [0, 1, 2]
target_class = 3
clean_fraction = 0.05
controls = false

[set]
distill.epochs = 20
"attack.lba.patch_fraction" = 0.35
attack.lba.layers = [1, 3]
defense.robustkd.var_mode = "batch"
"""
OPTIONS = [
    "--attack",
    "lba",
    "--attack",
    "badnets",
    "--defense",
    "all",
    "--pair",
    "wrn16_2-wrn16_1",
    "--preset",
    "quick",
    "--preset",
    "standard",
    "--seeds",
    "3",
    "--target-class",
    "3",
    "--clean-fraction",
    "0.05",
    "--no-controls",
    "--set",
    "distill.epochs=20",
    "--set",
    "attack.lba.patch_fraction=0.35",
    "--set",
    "attack.lba.layers=[1, 3]",
    "--set",
    "defense.robustkd.var_mode=batch",
    "--teacher",
    "timm/resnet18",
    "--student",
    "wrn10_1",
]


@pytest.fixture
def path(tmp_path):
    (tmp_path / "spec.toml").write_text(FILE)
    return tmp_path / "spec.toml"


def toml(*arguments):
    result = CliRunner().invoke(main, ["plan", "--toml", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_both_ways_of_asking_are_the_same_request(path):
    assert toml(str(path)) == toml("--spec", str(path)) == toml(*OPTIONS)


def test_a_request_survives_the_round_trip(path, registry, tmp_path):
    store = Store(tmp_path)
    spec = build_spec(registry, store, print, spec=path)
    assert spec.overrides["attack.lba.layers"] == "[1, 3]"
    (tmp_path / "again.toml").write_text(write_spec(spec))
    assert build_spec(registry, store, print, spec=tmp_path / "again.toml") == spec


def test_an_option_beside_a_file_wins(path, registry, tmp_path):
    spec = build_spec(
        registry,
        Store(tmp_path),
        print,
        spec=path,
        attacks=("ckd",),
        seeds=1,
        overrides=("distill.epochs=7",),
        target_class=0,
    )
    assert (spec.attacks, spec.seeds, spec.target_class) == (("ckd",), (0,), 0)
    assert spec.overrides["distill.epochs"] == "7"
    assert spec.clean_fraction == 0.05


def test_a_folder_in_a_file_is_relative_to_it(tmp_path):
    (tmp_path / "s.toml").write_text('data_dir = "pictures"')
    assert read_spec(tmp_path / "s.toml")["data_dir"] == tmp_path / "pictures"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("attacks = [", "is not TOML"),
        ('atacks = ["lba"]', "did you mean 'attacks'"),
        ("attacks = {a = 1}", "must be a list"),
        ("set = 3", r"\[set\] must be a table"),
        ("\x00", "is not TOML"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path, text, message):
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_spec(tmp_path / "s.toml")


def test_wrong_values_in_a_file_are_usage_errors(tmp_path):
    for text in (
        'attacks = ["lba"]\npairs = ["wrn16_2-wrn16_1"]\nseeds = [-1]',
        'attacks = ["lba"]\npairs = ["wrn16_2-wrn16_1"]\nclean_fraction = 7',
        'attacks = ["lba"]\npairs = [["wrn16_2"]]',
        'attacks = ["lba"]\npairs = ["wrn16_2-wrn16_1"]\n[set]\nclean.epoch = 1',
        'attacks = [3]\npairs = ["wrn16_2-wrn16_1"]',
        'pairs = ["wrn16_2-wrn16_1"]',
    ):
        (tmp_path / "s.toml").write_text(text)
        result = CliRunner().invoke(main, ["plan", str(tmp_path / "s.toml"), "--json"])
        assert result.exit_code == 2, (text, result.output)
        assert "Traceback" not in result.output


def test_a_plan_as_json(tmp_path):
    asked = [
        "plan",
        "--attack",
        "badnets",
        "--pair",
        "wrn10_1-wrn10_1",
        "--json",
        "--jobs",
        "2",
        "--store",
        str(tmp_path),
    ]
    found = json.loads(CliRunner().invoke(main, asked).output)
    assert found["summary"]["to_run"] == found["summary"]["stages"] == len(found["stages"])
    assert {stage["why"] for stage in found["stages"]} == {"new"}


BLOCKS = """
attacks = ["lba"]
defenses = ["none", "robustkd.m5"]
pairs = ["wrn16_2-wrn16_1"]

[[also]]
distillers = "kd"
defenses = "none"

[[also]]
attacks = ["badnets"]
pairs = ["wrn10_1-wrn10_1"]
datasets = ["signs"]

[set]
defense.robustkd.m5.m_max = 0.05
attack.lba.steps = 3
distill.lr = 0.01
"""


def blocks(registry, tmp_path, text=BLOCKS, **options):
    (tmp_path / "blocks.toml").write_text(text)
    return build_spec(
        registry, Store(tmp_path / "store"), print, spec=tmp_path / "blocks.toml", **options
    )


def test_blocks_are_the_request_with_something_else(registry, tmp_path):
    spec = blocks(registry, tmp_path)
    found = [(b.attacks, b.defenses, b.distillers, b.pairs) for b in spec.blocks()]
    pair = (("wrn16_2", "wrn16_1"),)
    assert found == [
        (("lba",), ("none", "robustkd.m5"), ("fkd",), pair),
        (("lba",), ("none",), ("kd",), pair),
        (("badnets",), ("none", "robustkd.m5"), ("fkd",), (("wrn10_1", "wrn10_1"),)),
    ]
    (tmp_path / "again.toml").write_text(write_spec(spec))
    assert (
        build_spec(registry, Store(tmp_path / "store"), print, spec=tmp_path / "again.toml") == spec
    )


def test_an_option_replaces_the_field_in_every_block_and_what_is_set_for_what_is_gone(
    registry, tmp_path
):
    spec = blocks(
        registry,
        tmp_path,
        defenses=("nad",),
        pairs=("wrn10_1-wrn10_1",),
        overrides=("defense.nad.lr=0.1",),
    )
    assert {(b.defenses, b.pairs) for b in spec.blocks()} == {(("nad",), (("wrn10_1", "wrn10_1"),))}
    assert spec.overrides == {
        "attack.lba.steps": "3",
        "distill.lr": "0.01",
        "defense.nad.lr": "0.1",
    }


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('distillers = "kd"', 'distiller = "kd"', "did you mean 'distillers'"),
        ('distillers = "kd"', "seeds = [1]", "unknown field 'seeds'"),
        ('distillers = "kd"', "distillers = []", "also"),
        ('distillers = "kd"', 'distillers = "kdd"', "did you mean 'kd'"),
        ("[[also]]\ndistillers", "[also]\ndistillers", ""),
        ('datasets = ["signs"]', 'datasets = ["sings"]', "did you mean 'signs'"),
    ],
)
def test_blocks_that_will_not_do(tmp_path, old, new, words):
    assert old in BLOCKS
    (tmp_path / "s.toml").write_text(BLOCKS.replace(old, new))
    result = CliRunner().invoke(main, ["plan", str(tmp_path / "s.toml"), "--json"])
    assert result.exit_code == 2, result.output
    assert words in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_specs_that_are_shipped_can_be_planned(path):
    found = CliRunner().invoke(main, ["plan", str(path), "--dataset", "signs", "--json"])
    assert found.exit_code == 0, found.output
