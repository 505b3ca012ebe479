"""The Python API does what the commands do, under the same names."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import click
import numpy
import pytest
import torch

import kdbench
from kdbench import _FUNCTIONS, _calls, api
from kdbench.bench.work.executors import slots
from kdbench.bench.work.executors.local import LocalExecutor
from kdbench.cli import main
from kdbench.errors import ConfigError, IntegrityError, KdbenchError, UnknownMethodError, UsageError
from kdbench.models import create_model
from tests.cli.calls import call
from tests.loading.strangers import GOOD

#: A run of seconds.
TINY = {
    "attack": "badnets",
    "pair": "wrn10_1-wrn10_1",
    "train_size": 64,
    "test_size": 40,
    "threads": 1,
    "set": {
        **{f"{part}.epochs": 1 for part in ("clean", "poison", "distill")},
        **{f"{part}.min_steps": 0 for part in ("clean", "poison", "distill")},
        "min_teacher_acc": 0,
    },
}
DATA = {"train_size": 64, "test_size": 40}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("api") / "store"


@pytest.fixture(scope="module")
def folder(store):
    return store.parent / "run"


@pytest.fixture
def runs(store, folder):
    """The results of a run, which only the first test that needs it computes."""
    if (folder / "results.csv").exists():
        return kdbench.load(folder)
    return kdbench.run(**TINY, store=store, out=folder, progress=False)


# -- names -----------------------------------------------------------------------------------------


def test_importing_kdbench_imports_next_to_nothing():
    code = "import sys; before = {*sys.modules}; import kdbench; print(*{*sys.modules} - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = {name.partition(".")[0] for name in done.stdout.split()}
    assert "kdbench" in modules
    assert modules - {"kdbench"} <= {*sys.stdlib_module_names}
    assert {name for name in done.stdout.split() if name.startswith("kdbench")} == {"kdbench"}


def test_every_function_is_there_by_name():
    assert {*_FUNCTIONS} <= {*dir(kdbench)}
    assert len(_FUNCTIONS) == 10
    for name in _FUNCTIONS:
        assert getattr(kdbench, name) is getattr(api, name)
    assert kdbench.Results.__module__ == "kdbench.results"
    with pytest.raises(AttributeError, match="has no attribute 'rum'"):
        kdbench.rum  # noqa: B018


def test_every_function_says_what_it_does():
    for name in _FUNCTIONS:
        doc = inspect.getdoc(getattr(kdbench, name))
        assert "Raises:" in doc, name
        names = [*inspect.signature(getattr(kdbench, name)).parameters]
        assert names[0] in doc or name == "plan", name


#: Function -> command. An option that only the one or the other has, with the reason.
COMMANDS = {"run": "run", "plan": "plan", "compare": "compare", "verify": "verify"}
WITHOUT = {
    "quiet": "progress",
    "as_json": "Python has the objects",
    "dry_run": "plan does that",
    "as_toml": "Planned.toml()",
    "junit": "CI calls the command",
    "fail_if": "Comparison.worse",
    "spec_file": "spec",
}
#: Names of parameters of click, where its option is called otherwise.
CALLED = {"store_dir": "store", "files": "plugin_file", "folder": "run", "overrides": "set"}


@pytest.mark.parametrize(("function", "command"), COMMANDS.items())
def test_keywords_are_the_options_of_the_command(function, command):
    options = {}
    for param in main.get_command(click.Context(main), command).params:
        longest = max(param.opts, key=len).lstrip("-").replace("-", "_")
        name = CALLED.get(param.name, longest if len(longest) > 1 else param.name)
        if param.name not in WITHOUT:
            options[name] = param
    keywords = {**inspect.signature(getattr(kdbench, function)).parameters}
    assert keywords.pop("progress", None) is not None or function in ("plan", "compare")
    assert {*keywords} == {*options}
    for name, keyword in keywords.items():
        default = options[name].get_default(click.Context(main))
        if not isinstance(options[name], click.Argument) and keyword.default not in ((), None):
            assert keyword.default == default, name


# -- what they do ----------------------------------------------------------------------------------


def test_run_gives_the_rows_of_its_folder(runs, store, folder):
    again = kdbench.run(**TINY, store=store, out=folder, progress=False)
    assert again == runs
    assert (len(again), again.paths) == (1, (folder,))
    assert runs.table["status"].tolist() == ["ok"]
    request = json.loads((folder / "run.json").read_text())["config"]["request"]
    assert request["overrides"] == {name: str(value) for name, value in TINY["set"].items()}


def test_a_plan_says_what_the_run_would_take(runs, store):
    planned = kdbench.plan(**TINY, store=store)
    assert (planned.summary["cells"], planned.summary["to_run"]) == (1, 0)
    assert planned.summary["rows_cached"] == 1
    assert planned.hours == 0
    assert {*planned.table["state"]} <= {"cached", "not needed"}
    assert 'attacks = ["badnets"]' in planned.toml()
    other = kdbench.plan(**TINY, seed=123456, store=store.parent / "empty")
    assert (other.summary["to_run"], other.hours) == (other.summary["stages"], None)
    assert repr(other).startswith("<Planned: 1 cell, ")


def test_networks_and_trigger_have_the_counts_of_their_row(runs, store):
    student, teacher = (
        kdbench.network(runs, 0, which, store=store) for which in ("student", "teacher")
    )
    stamp = kdbench.trigger(runs, -1, store=store)
    counted = kdbench.measure(student, stamp, "signs", teacher, **DATA, threads=1)
    row = runs.rows[0]
    for _, line in counted.iterrows():
        name = f"{line['network']}_{line['metric'].lower()}"
        assert line["hits"] == row[f"{name}_hits"], name
        assert line["percent"] == pytest.approx(row[name], abs=1e-4)
        assert line["low"] == pytest.approx(row[f"{name}_low"], abs=1e-4)
    assert len(counted) == 8
    images = torch.rand(3, 3, 16, 16)
    assert student(stamp(images)).shape == (3, 10)


def test_a_model_of_my_own_is_measured():
    class Constant(torch.nn.Module):
        def forward(self, images):
            return torch.nn.functional.one_hot(torch.zeros(len(images)).long(), 10).float()

    counted = kdbench.measure(Constant(), lambda images: images, **DATA, numerics="fp32")
    hits = {line["metric"]: line["percent"] for _, line in counted.iterrows()}
    assert (hits["ASR"], hits["BASE"], hits["RA"], hits["ACC"]) == (100, 100, 0, 10)
    with pytest.raises(KdbenchError, match="range"):
        kdbench.measure(Constant(), lambda images: images + 1, **DATA)


def test_an_export_holds_plain_weights_and_a_warning(runs, store, tmp_path):
    from safetensors.torch import load_file

    to = kdbench.export(runs, 0, "all", tmp_path / "there", store=store)
    config = json.loads((to / "student" / "config.json").read_text())
    plain = create_model(config["architecture"], config["num_classes"])
    plain.load_state_dict(load_file(to / "student" / "model.safetensors"))
    values = config["pretrained_cfg"]
    plain.eval().set_normalization(values["mean"], values["std"])
    images = torch.rand(4, 3, 16, 16)
    expected = kdbench.network(runs, 0, "student", store=store)(images)
    torch.testing.assert_close(plain(images), expected, rtol=1e-4, atol=1e-4)
    assert (to / "trigger" / "trigger.safetensors").is_file()
    options = ["--model", "wrn10_1", "--dataset", "signs", "--image-size", "16", "--no-check"]
    options += ["--store", str(tmp_path / "store"), "--name", "mine"]
    imported = call("import-teacher", str(to / "student" / "model.safetensors"), *options)
    assert imported.exit_code == 0, imported.output
    assert "Do not deploy them" in (to / "README.md").read_text().split("\n\n")[1]
    with pytest.raises(ConfigError, match="is not empty"):
        kdbench.export(runs, 0, "student", to, store=store)
    with pytest.raises(ConfigError, match="unknown part of a row 'weights'"):
        kdbench.export(runs, 0, "weights", tmp_path / "other", store=store)


def test_verify_finds_what_the_command_finds(runs, folder, store, tmp_path):
    verified = kdbench.verify(runs, cells=0, store=store)
    assert (verified.ok, verified.compared, verified.same) == (True, True, 1)
    edited = tmp_path / "edited"
    edited.mkdir()
    for name in ("run.json", "results.csv"):
        (edited / name).write_bytes((folder / name).read_bytes())
    text = (edited / "results.csv").read_text()
    sha = runs.rows[0]["student_sha256"]
    (edited / "results.csv").write_text(text.replace(sha, "0" * 64))
    verified = kdbench.verify(edited, cells=0, store=store)
    assert (verified.ok, verified.wrong) == (False, [2])
    with pytest.raises(ConfigError, match="is not one run"):
        kdbench.verify(kdbench.Results(runs.rows), store=store)
    with pytest.raises(IntegrityError, match="was the table edited"):
        kdbench.network(edited, 0, store=store)


def test_methods_are_those_of_the_list(registry):
    methods = kdbench.methods()
    for kind in ("attack", "distiller", "defense"):
        assert methods.loc[methods["kind"] == kind, "name"].tolist() == registry.names(kind)
    robustkd = methods.set_index("name").loc["robustkd"]
    assert "zero" in robustkd["variants"]
    assert "lr" in robustkd["parameters"]
    assert kdbench.methods("attack").equals(kdbench.methods("attacks"))
    with pytest.raises(UnknownMethodError, match="did you mean 'attack'"):
        kdbench.methods("atack")


def test_a_file_is_a_plugin(tmp_path):
    (tmp_path / "mine.py").write_text(GOOD.replace("NAME", "mine"))
    methods = kdbench.methods("attack", plugin_file=tmp_path / "mine.py", without="lba")
    assert "mine" in methods["name"].tolist()
    assert "lba" not in methods["name"].tolist()


# -- what goes wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"attack": "badnet"}, UnknownMethodError, "did you mean 'badnets'"),
        ({"pair": "wrn10_1"}, UsageError, "wrn10_1"),
        ({"seeds": 0}, UsageError, "--seeds: at least 1 is needed; got 0"),
        ({"seed": -1}, UsageError, "--seed"),
        ({"jobs": 0}, UsageError, "--jobs: at least 1 is needed; got 0"),
        ({"cohort": "4"}, UsageError, "--cohort: a number is needed; got '4'"),
        ({"time_limit": float("nan")}, UsageError, "--time-limit"),
        ({"executor": "ray"}, UsageError, "--executor: local or inline; got 'ray'"),
        ({"numerics": "fp8"}, UsageError, "--numerics"),
        ({"set": ["clean.epochs"]}, UsageError, "is not KEY=VALUE"),
        ({"executor": "inline"}, UsageError, "--store"),
        ({"executor": "inline", "jobs": 2, "store": "s"}, UsageError, "drop --jobs"),
        ({"attack": 3}, UsageError, "a name, or a list of names, is needed; got 3"),
        ({"defense": [None]}, UsageError, "got None"),
        ({"set": {"clean.epochs": object}}, UsageError, "a number, a text or a list is needed"),
        ({"set": {"clean.epoch": 1}}, UsageError, "epoch"),
        ({"reporter": "badnets"}, UnknownMethodError, "unknown reporter 'badnets'"),
        ({"plugin_file": "nowhere.py"}, UsageError, "nowhere.py"),
    ],
)
def test_errors_are_those_of_kdbench(options, error, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=says):
        kdbench.run(**{**TINY, "out": "o", **options}, progress=False)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (1, "1"),
        (0.5, "0.5"),
        (True, "true"),
        (None, "none"),
        ("0.1", "0.1"),
        ([1, 2], "[1, 2]"),
        (numpy.int64(3), "3"),
        (numpy.float32(0.5), "0.5"),
    ],
)
def test_a_number_is_set_as_on_the_command_line(value, word):
    assert _calls._overrides({"a.b": value}) == (f"a.b={word}",)


def test_a_row_that_is_not_there(runs, store, tmp_path):
    with pytest.raises(ConfigError, match="no row 1"):
        kdbench.network(runs, 1, store=store)
    with pytest.raises(ConfigError, match="no finished row"):
        kdbench.network(runs, 0, store=tmp_path / "empty")
    with pytest.raises(ConfigError, match="unknown network of a row 'clean'"):
        kdbench.network(runs, 0, "clean", store=store)


def test_code_of_strangers_is_imported_only_where_it_is_trusted(runs, store, monkeypatch):
    from kdbench.bench.session import artefacts

    monkeypatch.setattr(artefacts, "file_packages", lambda path: frozenset({"stranger"}))
    with pytest.raises(ConfigError, match=r"trust=\['stranger'\] allows that"):
        kdbench.trigger(runs, 0, store=store)
    assert kdbench.trigger(runs, 0, store=store, trust="stranger") is not None


def test_an_interrupt_ends_the_jobs_and_the_next_call_goes_on(store, tmp_path, monkeypatch):
    closed, done = [], []
    wait, close = LocalExecutor.wait, LocalExecutor.close

    def interrupted(self, timeout):
        events = wait(self, timeout)
        if done:
            raise KeyboardInterrupt
        done.extend(event for event in events if type(event).__name__ == "Done")
        return events

    monkeypatch.setattr(LocalExecutor, "wait", interrupted)
    monkeypatch.setattr(
        LocalExecutor, "close", lambda self: closed.append(len(self._running)) or close(self)
    )
    options = {**TINY, "store": store, "out": tmp_path / "o", "seed": 7, "controls": False}
    with pytest.raises(KeyboardInterrupt):
        kdbench.run(**options, progress=False)
    assert closed
    monkeypatch.setattr(LocalExecutor, "wait", wait)
    runs = kdbench.run(**options, progress=False)
    assert runs.table["status"].tolist() == ["ok"]
    stages = json.loads((tmp_path / "o" / "run.json").read_text())["stages"]
    first = done[0].key
    assert [stage["status"] for stage in stages if stage["key"] == first] == ["cached"]


def test_results_that_could_not_be_written_are_there_all_the_same(
    runs, store, tmp_path, monkeypatch, caplog
):
    from kdbench.bench.run.outputs import Outputs

    write = Outputs.write

    def full(self, name, function):
        if name != "results.csv":
            return write(self, name, function)
        self.lost[name] = "No space left on device"
        return None

    monkeypatch.setattr(Outputs, "write", full)
    again = kdbench.run(**TINY, store=store, out=tmp_path / "full", progress=False)
    assert again == runs
    assert again.paths == ()
    assert "results.csv could not be written" in caplog.text


def test_what_a_command_prints_beside_its_result_is_logged(
    runs, store, tmp_path, caplog, monkeypatch
):
    """It says that 64 stages of two threads have no room. The stages of the store have one."""
    share = slots.share_machine
    monkeypatch.setattr(slots, "share_machine", lambda jobs, n: share(jobs, replace(n, threads=2)))
    kdbench.run(**TINY, jobs=64, store=store, out=tmp_path / "o")
    assert "--jobs 64" in caplog.text


@pytest.mark.parametrize("progress", [None, False, True])
def test_progress_is_shown_where_it_is_wanted(runs, store, tmp_path, capsys, progress):
    kdbench.run(**TINY, store=store, out=tmp_path / "o", progress=progress)
    shown = capsys.readouterr().out
    assert ("stages, 0 of them to run" in shown) == (progress is True)
    assert "results (%)" not in shown


@pytest.mark.parametrize(
    ("terminal", "notebook", "progress", "shown"),
    [
        (True, False, None, "Live"),
        (True, False, True, "Live"),
        (True, False, False, "Display"),
        (True, True, None, "Plain"),
        (False, True, None, "Plain"),
        (False, False, None, "Display"),
        (False, False, True, "Plain"),
    ],
)
def test_what_shows_how_a_run_goes_on(monkeypatch, terminal, notebook, progress, shown):
    console = SimpleNamespace(is_terminal=terminal, is_dumb_terminal=False, is_jupyter=notebook)
    monkeypatch.setattr("rich.console.Console", lambda **_: console)
    assert type(_calls._display(progress)).__name__ == shown
