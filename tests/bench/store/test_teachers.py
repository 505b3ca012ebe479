"""Teachers from elsewhere: kept once under a name, used as they are, judged by accuracy alone."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner

from kdbench.bench.plan import prepare
from kdbench.bench.request.spec import RunSpec
from kdbench.bench.run import verify
from kdbench.bench.run.events import Quiet
from kdbench.bench.store.artefacts import Store
from kdbench.bench.store.care import garbage
from kdbench.bench.store.teachers import load_teacher, save_teacher, teacher_names
from kdbench.bench.work.executors.inline import InlineExecutor
from kdbench.cli import main
from kdbench.data.files import load_images
from kdbench.errors import ConfigError, IntegrityError, UnknownMethodError
from kdbench.models import create_model
from kdbench.report.leaderboard import leaderboard
from kdbench.report.read import read_results
from tests.runs import go

BRIEF = {"distill.epochs": "1", "repair.epochs": "1", "defense.robustkd.steps": "2"}
ABOUT = {"model": "wrn10_1", "dataset": "stripes", "num_classes": 3, "image_size": 16}


def state(seed=0):
    torch.manual_seed(seed)
    return create_model("wrn10_1", 3).state_dict()


def keep(tmp_path, name="stranger", seed=0, **about):
    return save_teacher(
        tmp_path / "store", name, state(seed), {"sha256": "abc", "file": "t.pth"}, **(ABOUT | about)
    )


def test_a_teacher_is_kept_under_its_name(tmp_path):
    key = keep(tmp_path)
    store = Store(tmp_path / "store")
    found = load_teacher(store, "stranger")
    assert (found.key, found.model, found.num_classes, found.origin["file"]) == (
        key,
        "wrn10_1",
        3,
        "t.pth",
    )
    assert keep(tmp_path) == key, "the same again is no error"
    assert teacher_names(store) == ["stranger"]
    assert not list((store.vault / "staging").iterdir())


@pytest.mark.parametrize("name", ["", "../up", "A", "a/b", ".a", "-a", "a b"])
def test_names_are_file_names(tmp_path, name):
    with pytest.raises(ConfigError, match="is no name"):
        keep(tmp_path, name)


def test_other_weights_under_a_taken_name_are_refused(tmp_path):
    keep(tmp_path)
    with pytest.raises(ConfigError, match="choose another --name"):
        keep(tmp_path, seed=1)
    assert not list((Store(tmp_path / "store").vault / "staging").iterdir())


def test_weights_of_another_network_are_refused(tmp_path):
    wrong = state()
    del wrong["fc.bias"]
    with pytest.raises(IntegrityError, match=r"fc\.bias"):
        save_teacher(tmp_path / "store", "a", wrong, {}, **ABOUT)


def test_damage_is_noticed(tmp_path):
    key = keep(tmp_path)
    store = Store(tmp_path / "store")
    path = store.folder(key) / "model.safetensors"
    path.chmod(0o644)
    path.write_bytes(b"x" + path.read_bytes()[1:])
    with pytest.raises(IntegrityError, match="import it again"):
        load_teacher(store, "stranger")
    with pytest.raises(UnknownMethodError):
        load_teacher(store, "stranger")
    keep(tmp_path)
    (store.vault / "teachers" / "stranger.json").write_text("{")
    with pytest.raises(IntegrityError, match="damaged"):
        load_teacher(store, "stranger")


def test_a_suspect_teacher_is_distilled_and_judged_by_accuracy(
    tmp_path, registry, stripes, monkeypatch
):
    monkeypatch.setattr(prepare, "load", lambda spec, resolved, sources: stripes)
    keep(tmp_path)
    store = Store(tmp_path / "store")
    spec = RunSpec(
        teacher_from=("stranger",),
        defenses=("none", "robustkd", "nad"),
        pairs=(("wrn10_1", "wrn10_1"),),
        overrides=BRIEF,
    )
    rows = go(spec, registry, tmp_path / "out", store)
    assert [row["status"] for row in rows] == ["ok"] * 3
    for row in rows:
        assert row["attack"] == "imported:stranger"
        assert row["n_test"] == 120
        assert row["student_acc_hits"] is not None
        assert row["student_asr"] is row["target_class"] is row["verdict"] is None
        assert (
            row["teacher_sha256"]
            == store.find(load_teacher(store, "stranger").key).files["model.safetensors"]["sha256"]
        )
    assert rows[1]["cleansed_acc"] is not None
    # The teacher normalises as the dataset says, whatever it was kept with.
    model = create_model("wrn10_1", 3)
    model.load_state_dict(state())
    model.set_normalization(stripes.mean, stripes.std)
    with torch.no_grad():
        hits = int(
            (
                model.eval()(stripes.test.read(torch.arange(120))).argmax(1) == stripes.test.labels
            ).sum()
        )
    assert abs(hits - rows[0]["teacher_acc_hits"]) <= 2, "up to the arithmetic of the run"
    back = read_results(tmp_path / "out")
    assert len(back.rows) == 3
    assert set(leaderboard(back.rows)["rank"].isna()) == {True}
    # Its rows can be computed again, from a copy of its weights; garbage collection keeps what
    # nobody could compute.
    ready = prepare.prepare(spec, registry, store)
    again = verify.again(
        back, back.lines, ready, registry, store, tmp_path, Quiet(), InlineExecutor(registry)
    )
    assert again == []
    teacher = store.folder(load_teacher(store, "stranger").key)
    assert teacher not in garbage(store, 14, unused_days=-1)


def test_a_teacher_that_is_damaged_after_the_plan_costs_its_rows(
    tmp_path, registry, stripes, monkeypatch
):
    monkeypatch.setattr(prepare, "load", lambda spec, resolved, sources: stripes)
    path = Store(tmp_path / "store").folder(keep(tmp_path)) / "model.safetensors"
    find = prepare.load_teacher

    def then_damage(store, name):
        found = find(store, name)
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        return found

    monkeypatch.setattr(prepare, "load_teacher", then_damage)
    spec = RunSpec(
        teacher_from=("stranger",),
        pairs=(("wrn10_1", "wrn10_1"),),
        overrides={"distill.epochs": "1"},
    )
    (row,) = go(spec, registry, tmp_path / "out", Store(tmp_path / "store"))
    assert row["status"] == "failed"
    assert "import it again" in row["reason"]


def test_an_imported_teacher_is_not_checked_and_its_deployer_has_a_share(
    tmp_path, registry, stripes, monkeypatch
):
    monkeypatch.setattr(prepare, "load", lambda spec, resolved, sources: stripes)
    keep(tmp_path)
    seen = []

    class Looking(InlineExecutor):
        def start(self, job):
            path = job.folder / "in" / job.task["images"]
            seen.append((job.kind, len(load_images(path))))
            super().start(job)

    spec = RunSpec(
        teacher_from=("stranger",),
        pairs=(("wrn10_1", "wrn10_1"),),
        transfer_fraction=0.5,
        overrides={"distill.epochs": "1"},
    )
    store = Store(tmp_path / "store")
    (row,) = go(spec, registry, tmp_path / "out", store, executor=Looking(registry))
    assert seen == [("distill", 108), ("evaluate", 120), ("evaluate", 120)]
    assert (row["status"], row["transfer_fraction"]) == ("ok", 0.5)
    assert row["held_out_acc"] is row["gain"] is None


def test_a_teacher_that_does_not_fit_is_refused(tmp_path, registry, stripes, monkeypatch):
    monkeypatch.setattr(prepare, "load", lambda spec, resolved, sources: stripes)
    keep(tmp_path)
    store = Store(tmp_path / "store")
    wrong = RunSpec(teacher_from=("stranger",), pairs=(("resnet20", "wrn10_1"),))
    with pytest.raises(ConfigError, match="is a wrn10_1, but the pair"):
        go(wrong, registry, tmp_path / "out", store)
    torch.manual_seed(0)
    save_teacher(
        store.root,
        "ten",
        create_model("wrn10_1", 10).state_dict(),
        {},
        **(ABOUT | {"num_classes": 10}),
    )
    with pytest.raises(ConfigError, match="tells 10 classes apart"):
        go(
            RunSpec(teacher_from=("ten",), pairs=(("wrn10_1", "wrn10_1"),)),
            registry,
            tmp_path / "out",
            store,
        )


def test_the_command_line_takes_the_architecture_from_the_teacher(tmp_path, monkeypatch):
    keep(tmp_path, num_classes=3)
    monkeypatch.setenv("KDBENCH_STORE", str(tmp_path / "store"))
    plan = [
        "plan",
        "--teacher-from",
        "stranger",
        "--student",
        "wrn16_1",
        "--num-classes",
        "3",
        "--toml",
    ]
    result = CliRunner().invoke(main, plan)
    assert result.exit_code == 0, result.output
    assert 'pairs = [["wrn10_1", "wrn16_1"]]' in result.output
    assert "stranger" in CliRunner().invoke(main, ["list", "teachers"]).output
    assert (
        CliRunner()
        .invoke(main, ["plan", "--teacher-from", "nobody", "--student", "wrn16_1"])
        .exit_code
        == 2
    )
