"""A spec file means what the command line means, option by option, or is refused."""

from __future__ import annotations

import click
import pytest

from kdbench.bench.request.spec import Block, RunSpec
from kdbench.bench.request.specfile import read_spec
from kdbench.bench.session.request import build_spec
from kdbench.bench.store.artefacts import Store
from kdbench.cli.run import run_command
from kdbench.errors import ConfigError, UsageError
from kdbench.report.columns import MOST_WHOLE

ATTACKS, PAIRS = ["--attack", "badnets"], ["--pair", "wrn10_1-wrn10_1"]
LINES = 'attacks = ["badnets"]\npairs = ["wrn10_1-wrn10_1"]\n'
#: Field -> (options, lines) that mean the same.
SAME = {
    "attacks": [
        (["--attack", "lba"], 'attacks = "lba"'),
        (["--attack", "lba", "--attack", "ckd"], 'attacks = ["lba", "ckd"]'),
        (["--attack", "all"], 'attacks = "all"'),
    ],
    "class_names": [],  # no option sets it: an imported teacher does
    "teacher_from": [],  # a teacher must be there; its names are names like the others
    "defenses": [(["--defense", "nad"], 'defenses = "nad"')],
    "distillers": [(["--distiller", "kd"], 'distillers = ["kd"]')],
    "pairs": [
        (["--pair", "all"], 'pairs = "all"'),
        (["--teacher", "wrn16_2", "--student", "wrn10_1"], 'pairs = [["wrn16_2", "wrn10_1"]]'),
    ],
    "datasets": [(["--dataset", "gtsrb"], 'datasets = "gtsrb"')],
    "presets": [(["--preset", "paper"], 'presets = "paper"')],
    "seeds": [
        (["--seeds", "3"], "seeds = [0, 1, 2]"),
        (["--seed", "3"], "seeds = [3]"),
        (["--seed", str(MOST_WHOLE)], f"seeds = [{MOST_WHOLE}]"),
    ],
    "data_dir": [(["--data-dir", "/data"], 'data_dir = "/data"')],
    "download": [(["--download"], "download = true")],
    "image_size": [(["--image-size", "32"], "image_size = 32")],
    "num_classes": [(["--num-classes", "5"], "num_classes = 5")],
    "train_size": [(["--train-size", "50"], "train_size = 50")],
    "test_size": [(["--test-size", "50"], "test_size = 5_0")],
    "data_seed": [(["--data-seed", str(MOST_WHOLE)], f"data_seed = {MOST_WHOLE}")],
    "target_class": [(["--target-class", "3"], "target_class = 0x3")],
    "transfer_fraction": [(["--transfer-fraction", "0.1"], "transfer_fraction = 0.1")],
    "clean_fraction": [
        (["--clean-fraction", "1"], "clean_fraction = 1"),
        (["--clean-fraction", "5e-324"], "clean_fraction = 5e-324"),
    ],
    "unlabeled": [(["--unlabeled", "0.3"], "unlabeled = 0.3")],
    "controls": [(["--no-controls"], "controls = false")],
    "device": [(["--device", "cuda:1"], "device = 'cuda:1'")],
    "numerics": [(["--numerics", "bf16"], 'numerics = "bf16"')],
    "threads": [(["--threads", "2"], "threads = 2")],
    "overrides": [
        (["--set", "distill.epochs=2"], "[set]\ndistill.epochs = 2"),
        (["--set", "distill.epochs=2"], '[set]\n"distill.epochs" = "2"'),
        (["--set", "distill.lr=0.001"], "[set.distill]\nlr = 1e-3"),
        (["--set", "clean.optimizer=sgd"], "[set]\nclean.optimizer = 'sgd'"),
    ],
    "also": [],  # the command line has no blocks
}
WHOLE = ("image_size", "num_classes", "train_size", "test_size", "data_seed", "target_class")
SHARES = ("transfer_fraction", "clean_fraction", "unlabeled")
AXES = ("attacks", "teacher_from", "defenses", "distillers", "datasets", "presets")
#: (field, value in a file) that is refused.
REFUSED = [
    *((name, value) for name in (*WHOLE, "threads") for value in ("32.0", '"32"', "true", "-1")),
    *((name, value) for name in (*WHOLE, "threads") for value in ("[32]", "1e2", "inf", "{}")),
    *((name, str(2**63)) for name in WHOLE),
    *((name, value) for name in AXES for value in ("3", "true", "[3]", "[true]", "[[]]", "{}")),
    *((name, value) for name in AXES for value in ("[1.5]", "0.5")),
    *(("pairs", value) for value in ("3", "[3]", '[["wrn16_2"]]', "[[1, 2]]", '[["a","b","c"]]')),
    *(("pairs", value) for value in ("true", "[]", "[{}]")),
    *(("seeds", value) for value in ("3", "true", "0", "[true]", "[1.0]", '["1"]', "[-1]", "1.0")),
    *(("seeds", value) for value in ('"3"', "[]", "[[1]]", f"[{2**63}]", "-1")),
    *((name, value) for name in ("controls", "download") for value in ("1", "0", '"no"', "[]")),
    *((name, value) for name in SHARES for value in ('"0.5"', "true", "0", "2", "-0.1", "nan")),
    *((name, "inf") for name in SHARES),
    *(("device", value) for value in ("1", "true", '["cpu"]')),
    *(("numerics", value) for value in ('"fp64"', "32", '["fp32"]', "true")),
    *(("class_names", value) for value in ("3", "true", '["a"]', "[1, 2]", "{}")),
    *(("data_dir", value) for value in ("3", "true", '["a"]', "{}")),
    *(("set", value) for value in ("3", "true", '"distill.epochs=2"', '["distill.epochs=2"]')),
    *(("also", value) for value in ("3", '["a"]', "{}", "[[]]")),
]


def of_options(registry, store, *options):
    """The request that ``kdbench run`` makes of these options."""
    params = run_command.make_context("run", [*options], resilient_parsing=False).params
    known = {"spec", "teacher", "student", "seed", *RunSpec.model_fields} - {"also"}
    return build_spec(registry, store, print, **{k: v for k, v in params.items() if k in known})


def of_file(registry, store, path, text):
    path.write_text(text)
    return build_spec(registry, store, print, spec=path)


def lines_with(name, value):
    """A request that is whole but for one field, with that one."""
    others = [line for line in LINES.splitlines() if not line.startswith(name)]
    return "\n".join([f"{name} = {value}", *others])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


def test_every_field_is_in_the_table():
    assert set(SAME) == set(RunSpec.model_fields)
    assert {name for name, _ in REFUSED} | {"overrides"} == {*RunSpec.model_fields, "set"}


@pytest.mark.parametrize(
    ("name", "options", "lines"), [(name, *pair) for name, pairs in SAME.items() for pair in pairs]
)
def test_a_file_means_what_the_options_mean(registry, store, tmp_path, name, options, lines):
    default = [*([] if name == "attacks" else ATTACKS), *([] if name == "pairs" else PAIRS)]
    others = [line for line in LINES.splitlines() if not line.startswith(name)]
    spec = of_file(registry, store, tmp_path / "s.toml", "\n".join([*others, lines]))
    assert spec == of_options(registry, store, *default, *options)
    assert getattr(spec, name) != RunSpec.model_fields[name].default or name == "clean_fraction"


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_a_value_of_another_type_or_range_is_refused_by_name(tmp_path, name, value):
    path = tmp_path / "s.toml"
    path.write_text(lines_with(name, value))
    with pytest.raises(ConfigError) as caught:
        read_spec(path)
    assert str(caught.value).startswith(f"spec {path}")
    assert name in str(caught.value).removeprefix(f"spec {path}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", Block.model_fields)
def test_a_block_is_as_strict(tmp_path, name):
    path = tmp_path / "s.toml"
    path.write_text(f"{LINES}[[also]]\n{name} = 3")
    with pytest.raises(ConfigError, match=rf"\[\[also\]\] {name} must be a list"):
        read_spec(path)


@pytest.mark.parametrize(
    "options",
    [
        *(["--seed", value] for value in ("-1", "1.0", "true", str(2**63), "1e3")),
        *(["--seeds", value] for value in ("0", "-1", "2.0", "1000000000000")),
        ["--seed", str(MOST_WHOLE), "--seeds", "2"],
        *(["--image-size", value] for value in ("32.0", "7", str(2**63), "1e2")),
        *(["--clean-fraction", value] for value in ("0", "nan", "inf", "2", "0,5")),
        *(["--data-seed", value] for value in ("-1", str(2**63))),
        *(["--threads", value] for value in ("0", "2.0", "100000")),
        ["--numerics", "fp64"],
    ],
    ids=" ".join,
)
def test_an_option_is_as_strict_as_a_file(registry, store, options):
    with pytest.raises((UsageError, click.UsageError)) as caught:
        of_options(registry, store, *ATTACKS, *PAIRS, *options)
    error = caught.value
    words = error.format_message() if isinstance(error, click.UsageError) else str(error)
    assert options[0] in words or f"{options[0].removesuffix('s')}:" in words


def test_one_number_for_seeds_is_refused_with_both_ways_to_write_it(tmp_path):
    for value, several in ((3, "[0, 1, 2]"), (1, "[0]"), (0, "[0]"), (40, "[0, 1, ..., 39]")):
        (tmp_path / "s.toml").write_text(f"{LINES}seeds = {value}")
        with pytest.raises(ConfigError) as caught:
            read_spec(tmp_path / "s.toml")
        assert f"write seeds = {several}, or seeds = [{value}]" in str(caught.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("seed = 3", "did you mean 'seeds'"),
        ('attack = "lba"', "did you mean 'attacks'"),
        ('pair = "a-b"', "did you mean 'pairs'"),
        ('teacher = "wrn16_2"', 'write pairs = [["TEACHER", "STUDENT"]]'),
        ("distill.epochs = 3", "stands under a line [set]"),
        ("image-size = 32", "did you mean 'image_size'"),
        ("target_clas = 3", "did you mean 'target_class'"),
    ],
)
def test_a_name_that_is_no_field_is_explained(tmp_path, line, words):
    (tmp_path / "s.toml").write_text(f"{LINES}{line}")
    with pytest.raises(ConfigError) as caught:
        read_spec(tmp_path / "s.toml")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (LINES.encode("utf-16"), 'line 1: it is in UTF-16 ("Unicode text"'),
        (LINES.encode("utf-16-le"), "line 1: it is in UTF-16"),
        (f"{LINES}# caf\xe9".encode("latin-1"), "line 3: it is a binary file or not in UTF-8"),
        (LINES.replace('"', "\u201c").encode(), "quotes of a word processor"),
        (LINES.replace('"', "\u2019").encode(), "quotes of a word processor"),
        (LINES.replace("\n", "\r").encode(), "lone carriage return"),
        (b'{"attacks": ["lba"]}', "line 1: it is JSON"),
        (b"attacks:\n  - lba\n", "line 1, column 8); this looks like YAML"),
        (b"---\nattacks: [lba]\n", "this looks like YAML"),
        (b"schema,status,reason\n7,ok,\n", "it is a table of results"),
        (b"PK\x03\x04" + b"\0" * 30, "line 1: it is a zip archive"),
        (b"<!DOCTYPE html>\n<html>", "line 1: it is an HTML page"),
        (b"\x1f\x8b\x08\0", "line 1: it is packed with gzip"),
        (f"{LINES}seeds = [1]\nseeds = [2]\n".encode(), "line 4, column 12): this name has a"),
        (f"{LINES}image_size = null\n".encode(), "line 3, column 14); TOML has no null"),
        (f"{LINES}controls = False\n".encode(), "line 3, column 12); write true or false"),
        (f"{LINES}clean_fraction = 0,5\n".encode(), "line 3, column 19); write a decimal point"),
        (b"attacks = lba\n", "line 1, column 11); write a text in quotes"),
        (b'attacks = ["lba"\n', "line 1"),
    ],
    ids=range(19),
)
def test_a_file_in_another_form_is_named_as_that(tmp_path, content, words):
    (tmp_path / "s.toml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_spec(tmp_path / "s.toml")
    assert words in str(caught.value)


def test_what_editors_of_other_systems_leave_is_read(tmp_path):
    (tmp_path / "s.toml").write_bytes(
        b"\xef\xbb\xbf" + LINES.replace("\n", "\r\n").encode() + b"\tseeds\t=\t[1]\t# tabs\r\n"
    )
    assert read_spec(tmp_path / "s.toml")["seeds"] == [1]
