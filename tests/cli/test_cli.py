"""The command line: answers, refusals, exit codes and what the displays print."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner
from PIL import Image
from rich.console import Console

import kdbench
from kdbench._files import write_record
from kdbench.bench.plan import prepare
from kdbench.bench.run import runner as runner_module
from kdbench.bench.work.executors.local import LocalExecutor
from kdbench.cli import main
from kdbench.cli.display import (
    JsonDisplay,
    LiveDisplay,
    PlainDisplay,
    QuietDisplay,
    make_console,
    print_results,
    result_table,
    safe,
)
from kdbench.errors import ConfigError, DivergedError
from kdbench.report.columns import COLUMNS

RUN = ["run", "--attack", "badnets", "--pair", "wrn16_2-wrn16_1"]


def call(*arguments):
    return CliRunner().invoke(main, list(arguments))


def row(**values):
    return (
        dict.fromkeys(COLUMNS)
        | {
            "status": "ok",
            "attack": "badnets",
            "defense": "robustkd",
            "distiller": "fkd",
            "teacher": "pyramid200",
            "student": "pyramid110",
            "seed": 0,
            "teacher_acc": 97.12,
            "teacher_asr": 100.0,
            "student_acc": 95.0,
            "student_asr": 100.0,
            "student_ra": 100.0,
            "clean_teacher_asr": 100.0,
            "undefended_asr": 100.0,
            "transferred": -100.0,
            "removed": -100.0,
            "verdict": "not stopped",
            "reason": "because",
        }
        | values
    )


@pytest.fixture
def fake_run(monkeypatch):
    """Replaces the runner; ``calls`` collects (spec, settings, out); set ``answer`` to rows or an
    exception."""

    class Fake:
        calls = []
        answer = []

        def __call__(self, prepared, registry, out, reporter, store, executor, **options):
            self.calls.append((prepared.spec, prepared.settings, out))
            if isinstance(self.answer, BaseException):
                raise self.answer
            reporter.run_started(1, 1, 1, str(out))
            reporter.run_finished(self.answer, str(out))
            return self.answer

    fake = Fake()
    fake.calls, fake.answer = [], [row()]
    monkeypatch.setattr(runner_module, "run", fake)
    monkeypatch.setattr(LocalExecutor, "warm_up", lambda self: None)
    return fake


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom kdbench.cli import main\nmain(['--help'], standalone_mode=False)\n"
        "heavy = [m for m in ('torch', 'pandas', 'numpy', 'pydantic', 'rich', 'kdbench_badnets') "
        "if m in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "list" in done.stdout
    assert "run" in done.stdout
    assert time.perf_counter() - start < 3  # a loaded machine; alone it takes 0.1 s


def test_run_help_does_not_import_torch():
    code = (
        "import sys\nfrom kdbench.cli import main\nmain(['run', '--help'], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode
        == 0
    )


def test_version_and_module():
    assert kdbench.__version__ in call("--version").output
    done = subprocess.run(
        [sys.executable, "-m", "kdbench", "--version"], capture_output=True, text=True, check=False
    )
    assert done.stdout == f"kdbench, version {kdbench.__version__}\n"


def test_list():
    result = call("list")
    assert result.exit_code == 0
    for name in ("badnets", "robustkd", "fkd", "wrn28_4", "cifar10", "standard"):
        assert name in result.output
    only = call("list", "attacks")
    assert "badnets" in only.output
    assert "wrn28_4" not in only.output


def test_list_json():
    found = json.loads(call("list", "--json").output)
    assert {
        "attacks",
        "defenses",
        "distillers",
        "models",
        "datasets",
        "presets",
        "teachers",
        "broken",
    } == set(found)
    assert set(found["attacks"][0]) == {"name", "title", "venue", "year", "plugin", "version"}
    assert found["broken"] == []


def test_list_tells_of_one_method_or_model():
    (table,) = json.loads(call("list", "attacks", "ckd.lowvar", "--json").output).values()
    (lowvar,) = [row for row in table if row["field"] == "lowvar"]
    assert lowvar["value"] == "0.1"
    assert "variance" in next(row["what"] for row in table if row["field"] == "var_mode")
    (title, groups), *_ = json.loads(
        call("list", "models", "wrn16_1", "--image-size", "16", "--json").output
    ).items()
    assert title.startswith("wrn16_1 at 16x16,")
    assert [row["channels x height x width"] for row in groups] == ["16x16x16", "32x8x8", "64x4x4"]
    (groups,) = json.loads(call("list", "models", "timm/resnet18", "--json").output).values()
    assert [row["module"] for row in groups] == ["layer1", "layer2", "layer3"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("models", "wrn16"), "did you mean 'wrn16_4'"),
        (("attacks", "lbb"), "did you mean 'lba'"),
        (("attacks", "lba.x"), "unknown variant of lba 'x'"),
        (("presets", "quick"), "NAME goes with methods and models"),
    ],
)
def test_list_of_an_unknown_name(arguments, says):
    result = call("list", *arguments)
    assert result.exit_code == 2
    assert says in result.output


def test_list_shows_broken_plugins_harmlessly(monkeypatch):
    from kdbench.loading.plugin import Plugin
    from kdbench.loading.registry import Registry

    broken = Registry(
        plugins=[
            Plugin(
                "evil", "evil", "dist", status="broken", cause="ValueError: [bold red]\x1b[2J boom"
            )
        ]
    )
    monkeypatch.setattr(Registry, "load", classmethod(lambda cls, choice=None: broken))
    result = call("list", "attacks")
    assert result.exit_code == 0
    assert "evil" in result.output
    assert "[bold red] [2J boom" in result.output
    assert "\x1b" not in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "--attack", "badnets", "--defense", "badnets", "--pair", "wrn16_2-wrn16_1"],
            "there is an attack of that name",
        ),
        (["run", "--attack", "badnet", "--pair", "wrn16_2-wrn16_1"], "did you mean 'badnets'"),
        (["run", "--attack", "badnets", "--pair", "wrn16_2-wrn16_9"], "unknown model 'wrn16_9'"),
        (["run", "--attack", "badnets", "--pair", "wrn16_2"], "--teacher and --student"),
        (["run", "--attack", "badnets"], "no pair given"),
        (["run", "--attack", "badnets", "--teacher", "wrn16_2"], "belong together"),
        (["run", "--pair", "wrn16_2-wrn16_1"], "--attack NAME or --teacher-from NAME"),
        ([*RUN, "--teacher-from", "stranger"], "unknown imported teacher 'stranger'"),
        ([*RUN, "--spec", "nowhere.toml"], "nowhere.toml cannot be read"),
        ([*RUN, "--dataset", "cifer10"], "did you mean 'cifar10'"),
        ([*RUN, "--preset", "quik"], "did you mean 'quick'"),
        ([*RUN, "--set", "clean.epochs"], "is not KEY=VALUE"),
        ([*RUN, "--set", "=3"], "is not KEY=VALUE"),
        ([*RUN, "--set", "clean.epoch=3"], "did you mean 'clean.epochs'"),
        ([*RUN, "--set", "clean.epochs=many"], "clean.epochs"),
        (
            [*RUN, "--clean-fraction", "3"],
            "--clean-fraction: input should be less than or equal to 1",
        ),
        ([*RUN, "--image-size", "2"], "--image-size"),
        ([*RUN, "--quiet", "--json"], "exclude each other"),
        (["rum"], "No such command"),
    ],
)
def test_usage_errors(arguments, message, fake_run):
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert fake_run.calls == []


def test_out_that_cannot_be_written(tmp_path, fake_run):
    (tmp_path / "file").write_text("x")
    result = call(*RUN, "--out", str(tmp_path / "file" / "below"))
    assert result.exit_code == 2
    assert "--out" in result.stderr
    assert fake_run.calls == []


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("failed", 1), ("diverged", 1)])
def test_exit_code_of_rows(status, code, fake_run, tmp_path):
    fake_run.answer = [row(), row(status=status)]
    assert call(*RUN, "--out", str(tmp_path / "o")).exit_code == code


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("no"), 2), (DivergedError("nan"), 1), (KeyboardInterrupt(), 130)],
)
def test_exit_code_of_errors(error, code, fake_run, tmp_path):
    fake_run.answer = error
    result = call(*RUN, "--out", str(tmp_path / "o"))
    assert result.exit_code == code
    assert "Traceback" not in result.output


@pytest.fixture
def no_device(monkeypatch):
    def refuse(*_):
        raise ConfigError("no such device")

    monkeypatch.setattr(prepare, "choose_numerics", refuse)


def test_refused_request_leaves_no_empty_folder(fake_run, tmp_path, no_device):
    assert call(*RUN, "--out", str(tmp_path / "o")).exit_code == 2
    assert not (tmp_path / "o").exists()


def test_refused_request_leaves_a_folder_that_was_there(fake_run, tmp_path, no_device):
    (tmp_path / "o").mkdir()
    call(*RUN, "--out", str(tmp_path / "o"))
    assert (tmp_path / "o").is_dir()


def test_results_are_never_overwritten(fake_run, tmp_path):
    (tmp_path / "results.csv").write_text("precious")
    result = call(*RUN, "--out", str(tmp_path))
    assert result.exit_code == 2
    assert "already holds results" in result.stderr
    assert fake_run.calls == []
    assert (tmp_path / "results.csv").read_text() == "precious"


def test_a_folder_of_the_same_request_is_taken_up(fake_run, tmp_path):
    out = ["--out", str(tmp_path / "o")]
    assert call(*RUN, *out).exit_code == 0
    spec, _, folder = fake_run.calls[0]
    write_record({"config": {"request": spec.model_dump(mode="json")}}, folder / "run.json")
    (folder / "results.csv").write_text("half")
    assert call(*RUN, *out).exit_code == 0
    assert "another request" in call(*RUN, "--seed", "7", *out).stderr


def test_options_become_a_request(fake_run, tmp_path, registry):
    result = call(
        "run",
        "--attack",
        "all",
        "--attack",
        "badnets",
        "--defense",
        "all",
        "--pair",
        "all",
        "--pair",
        "wrn28_4-wrn16_4",
        "--teacher",
        "wrn10_1",
        "--student",
        "resnet20",
        "--seed",
        "5",
        "--seeds",
        "3",
        "--no-controls",
        "--set",
        "clean.epochs=7",
        "--out",
        str(tmp_path / "o"),
        "--quiet",
    )
    assert result.exit_code == 0, result.output
    assert result.output == f"{tmp_path / 'o'}\n"
    ((spec, settings, out),) = fake_run.calls
    assert out == tmp_path / "o"
    assert list(spec.attacks) == registry.names("attack")
    assert list(spec.defenses) == registry.names("defense")
    assert len(spec.pairs) == 7
    assert spec.pairs[-1] == ("wrn10_1", "resnet20")
    assert spec.seeds == (5, 6, 7)
    assert spec.controls is False
    assert settings[0].resolved.preset.clean.epochs == 7


def test_default_folder(fake_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call(*RUN)
    ((_, _, out),) = fake_run.calls
    assert re.fullmatch(r"runs/\d{8}-\d{6}-badnets-none-wrn16_2-wrn16_1(-\d+)?", out.as_posix())
    assert (tmp_path / out).is_dir()


def test_dry_run_shows_everything_and_runs_nothing(fake_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(*RUN, "--defense", "robustkd", "--dry-run", "--set", "clean.epochs=123")
    assert result.exit_code == 0, result.output
    for text in (
        "train clean wrn16_2",
        "implant badnets in wrn16_2",
        "clean.epochs",
        "123",
        "defense.robustkd.",
    ):
        assert text in result.output
    assert fake_run.calls == []
    assert list(tmp_path.iterdir()) == []
    found = json.loads(call(*RUN, "--dry-run", "--json").output)
    assert found["config"]["request"]["attacks"] == ["badnets"]
    assert len(found["cells"]) == 1
    assert found["machine"]["device"]


def test_dry_run_refuses_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = call(*RUN, "--dry-run", "--device", "cuda")
    assert result.exit_code == 2
    assert "--device cuda" in result.stderr


def test_json_lines_hold_no_nan(capsys):
    display = JsonDisplay()
    display.run_started(1, 1, 1, "out")
    display.stage_started(1, "train")
    display._next[1] = 0
    display.step(1, epoch=1, epochs=2, done=1, total=2, loss=float("nan"), images=4)
    display.stage_finished(1, "train", 1.23456, {"loss": float("inf"), "epochs": 3})
    display.cell_finished(row(removed=float("nan")))
    display.run_finished([row(), row(status="failed")], "out")
    lines = [
        json.loads(line, parse_constant=pytest.fail)
        for line in capsys.readouterr().out.splitlines()
    ]
    assert [line["event"] for line in lines] == [
        "run_started",
        "stage_started",
        "step",
        "stage_finished",
        "cell_finished",
        "run_finished",
    ]
    assert lines[3]["facts"] == {"loss": None, "epochs": 3}
    assert (lines[-1]["ok"], lines[-1]["cells"]) == (1, 2)


def test_plain_display(capsys):
    display = PlainDisplay()
    display.run_started(9, 4, 1, "out")
    display.stage_started(3, "distill\x1b[2J wrn16_1")
    for done in range(1000):
        display.step(3, epoch=1, epochs=2, done=done, total=1000, loss=1.0, images=4)
    display.stage_finished(
        3, "distill wrn16_1", 41.2, {"acc": 97.1, "device": "cpu", "confinement": "none"}
    )
    display.stage_finished(4, "measure: distill wrn16_1", 0.2, {})
    display.stage_failed(5, "repair", "boom")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "9 stages, 4 of them to run, 1 cells -> out",
        "[3/9] distill wrn16_1 | 41 s | acc 97.1",
        "[5/9] repair | FAILED: boom",
    ]
    display.stage_started(6, "distill\x1b[2J")
    display.stage_started(7, "another one at the same time")
    display._next[6] = 0
    for done in (5, 6):
        display.step(6, epoch=1, epochs=2, done=done, total=10, loss=0.5, images=4)
        display.step(7, epoch=1, epochs=2, done=done, total=10, loss=0.5, images=4)
    assert capsys.readouterr().out == "[6/9] distill [2J | epoch 1/2 | step 5/10 | loss 0.5\n"


def test_live_display_renders():
    console = make_console()
    display = LiveDisplay(console)
    display.stages, display.to_run = 5, 2
    display.stage_started(1, "train [red]x")
    display.stage_started(2, "measure: y")
    for done in (1, 2, 3):
        display.step(
            1, epoch=1, epochs=4, done=done, total=12, loss=0.25 if done == 2 else None, images=10
        )
    with console.capture() as capture:
        console.print(display.render())
    text = capture.get()
    for part in (
        "0/2 stages done, 3 in the store",
        "[1/5] train [red]x",
        "epoch 1/4",
        "loss 0.25",
        "left",
        "[2/5] measure: y",
    ):
        assert part in text
    for number in range(7):
        display.stage_finished(number, f"t{number}", 1.0, {})
    with console.capture() as capture:
        console.print(display.render())
    assert "t6" in capture.get()
    assert "t1 " not in capture.get()
    assert "train" not in capture.get()


@pytest.mark.parametrize("make", [QuietDisplay, PlainDisplay, LiveDisplay, JsonDisplay])
def test_step_is_cheap(make):
    display = make()
    display.stages = 1
    display.stage_started(1, "x")
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for done in range(1, 2001):
            display.step(1, epoch=1, epochs=1, done=done, total=2000, loss=1.0, images=64)
        best = min(best, (time.perf_counter() - start) / 2000)
    assert best < 50e-6


def test_of_many_rows_a_terminal_gets_fifty_and_the_count_of_the_rest(capsys):
    reason = "no verdict: a control failed: too bad"
    rows = [row(seed=1000 + seed, reason=reason) for seed in range(60)]
    print_results(Console(width=120), rows, "the-folder")
    text = capsys.readouterr().out
    assert "1049" in text
    assert "1050" not in text
    assert text.count(reason) == 50
    assert "and 10 more rows: see results.csv there" in text
    print_results(Console(width=120), rows[:50], "the-folder")
    assert "more rows" not in capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 120])
def test_result_table_fits(capsys, width):
    rows = [
        row(),
        row(verdict="inconclusive"),
        row(status="failed", student_acc=None, distiller="kd", verdict=None),
    ]
    table = result_table(rows, width)
    assert all(len(list(column.cells)) == len(rows) for column in table.columns)
    assert len(table.columns) == (8 if width == 80 else 11)
    Console(width=width).print(table)
    text = capsys.readouterr().out
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    for part in ("97.1/100.0", "95.0/100.0/100.0", "not stopped", "failed", "-100.0"):
        assert part in text


def test_the_share_removed_of_next_to_nothing_is_not_shown(capsys):
    for verdict in ("not stopped", "inconclusive"):
        Console(width=120).print(
            result_table([row(transferred=0.2, removed=362.5, verdict=verdict)], 120)
        )
    shown = capsys.readouterr().out
    assert shown.count("362.5") == 1
    assert shown.index("362.5") < shown.index("inconclusive")


def test_reasons_and_path_are_printed(fake_run, tmp_path):
    fake_run.answer = [row(reason="[x] only 3 points")]
    result = call(*RUN, "--out", str(tmp_path / "o"))
    assert "[x] only 3 points" in result.output
    assert result.output.rstrip().endswith(str(tmp_path / "o"))


def test_that_too_little_travelled_is_said_once(fake_run, tmp_path):
    reason = "only 12.5 points of ASR transferred; 30 are needed to judge"
    few = {"verdict": "inconclusive", "reason": reason, "transferred": 12.5}
    more = reason + "; control C2 failed: boom"
    fake_run.answer = [
        row(**few),
        row(**few, seed=1),
        row(**few | {"reason": more}, seed=2),
        row(seed=3),
    ]
    shown = call(*RUN, "--out", str(tmp_path / "o")).output
    assert "2 cells are inconclusive: under 30 points" in shown
    assert shown.count("only 12.5 points") == 1
    assert "seed 2: only 12.5 points" in shown
    assert "boom" in shown
    assert "seed 3: because" in shown
    fake_run.answer = [row(**few)]
    shown = call(*RUN, "--out", str(tmp_path / "one")).output
    assert reason in shown
    assert "cells are inconclusive" not in shown


def test_safe():
    assert safe("a\x1b[0m\nb[bold]") == "a [0m b\\[bold]"


@pytest.fixture
def no_stages(monkeypatch):
    """The real runner, real loading; a stage that starts is a failure."""
    monkeypatch.setattr(LocalExecutor, "warm_up", lambda self: None)
    monkeypatch.setattr(LocalExecutor, "start", lambda *_: pytest.fail("a stage started"))


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["--target-class", "10"], ["--target-class 10 is out of range", "classes 0 to 9"]),
        (["--num-classes", "65"], ["65"]),
        (["--dataset", "gtsrb", "--data-dir", "nowhere"], ["nowhere"]),
        (["--dataset", "flower17", "--data-dir", "nowhere"], ["nowhere"]),
        (["--dataset", "imagefolder:one", "--num-classes", "5"], ["one", "5"]),
    ],
)
def test_data_that_cannot_be_used_is_refused_and_leaves_nothing(
    arguments, messages, no_stages, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "one" / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (16, 16)).save(folder / f"{i}.png")
    result = call(*RUN, *arguments, "--out", "o")
    assert result.exit_code == 2, result.output
    for message in messages:
        assert message in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "o").exists()


def test_another_data_seed_draws_other_pictures(no_stages, registry):
    from kdbench.bench.request.spec import RunSpec, resolve

    def digest(seed):
        spec = RunSpec(
            attacks=("badnets",),
            pairs=(("wrn10_1", "wrn10_1"),),
            train_size=20,
            test_size=20,
            data_seed=seed,
        )
        return prepare.load(spec, resolve(spec, registry)).digest

    assert digest(0) == digest(0)
    assert digest(0) != digest(1)


def test_errors_carry_no_terminal_commands(fake_run, tmp_path):
    fake_run.answer = ConfigError("folder \x1b]0;owned\x07 is empty")
    result = call(*RUN, "--out", str(tmp_path / "o"))
    assert "folder  ]0;owned  is empty" in result.stderr


def test_quiet_says_why_a_cell_failed(capsys):
    display = QuietDisplay()
    display.cell_finished(row())
    display.cell_finished(row(status="failed", reason="boom"))
    display.run_finished([], "out")
    out, err = capsys.readouterr()
    assert out == "out\n"
    assert err.count("\n") == 1
    assert "failed: boom" in err


def test_a_note_on_the_dataset_is_shown(capsys):
    PlainDisplay().run_started(1, 1, 1, "out", note="a subset, not GTSRB")
    JsonDisplay().run_started(1, 1, 1, "out", note="a subset, not GTSRB")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "note: a subset, not GTSRB"
    assert json.loads(lines[2])["note"] == "a subset, not GTSRB"


def test_two_runs_in_one_second_get_two_folders(tmp_path, monkeypatch, registry):
    from kdbench.bench.request.spec import RunSpec
    from kdbench.cli.run import default_out

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda _: "20260101-000000")
    spec = RunSpec(attacks=("badnets",), pairs=(("wrn10_1", "wrn10_1"),))
    first, second = default_out(spec), default_out(spec)
    assert first != second
    assert first.is_dir()
    assert second.is_dir()
