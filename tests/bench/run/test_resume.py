"""Runs in the test's process: damage, full disks, failures and what the next run makes of them."""

from __future__ import annotations

import errno
import json

import pandas as pd
import pytest
from click.testing import CliRunner

from kdbench.bench.plan import prepare
from kdbench.bench.request.spec import RunSpec
from kdbench.bench.run import timings
from kdbench.bench.run.events import Quiet
from kdbench.bench.run.forecast import forecast
from kdbench.bench.run.verify import (
    OtherKeys,
    again,
    check_weights,
    choose,
    other_keys,
    read_request,
)
from kdbench.bench.store.artefacts import Store
from kdbench.bench.store.care import verify as verify_store
from kdbench.bench.store.manifest import MANIFEST
from kdbench.bench.work import stages
from kdbench.bench.work.executors.inline import InlineExecutor
from kdbench.cli import main
from kdbench.errors import ConfigError, DivergedError
from kdbench.report.read import read_results
from tests.runs import ANY_TEACHER, go

BRIEF = {f"{stage}.epochs": "1" for stage in ("clean", "poison", "distill", "repair")} | ANY_TEACHER


@pytest.fixture(autouse=True)
def _striped(stripes, monkeypatch):
    monkeypatch.setattr(prepare, "load", lambda spec, resolved, sources: stripes)


def spec(**asked):
    return RunSpec(
        **(
            {
                "attacks": ("badnets",),
                "pairs": (("wrn10_1", "wrn10_1"),),
                "numerics": "fp32",
                "overrides": BRIEF,
            }
            | asked
        )
    )


class Counting(InlineExecutor):
    def __init__(self, registry):
        super().__init__(registry)
        self.kinds = []

    def start(self, job):
        self.kinds.extend(one.kind for one in (job, *job.beside))
        super().start(job)


def numbers(rows):
    return [{k: v for k, v in row.items() if k not in ("wall_s", "peak_mem_mb")} for row in rows]


@pytest.fixture
def done(registry, tmp_path):
    """A finished run: (rows, store)."""
    store = Store(tmp_path / "store")
    return go(spec(), registry, tmp_path / "first", store), store


def artefact(store, kind, title=""):
    """The folder of the artefact of a kind; where there are several, the title has to say of
    which."""
    (found,) = (
        store.folder(m.key)
        for m in map(store.find, store)
        if m.kind == kind and m.title.endswith(title)
    )
    return found


def corrupt(path):
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-3] + b"???")


def test_a_damaged_network_is_computed_again_and_never_used(registry, tmp_path, done):
    rows, store = done
    corrupt(artefact(store, "backdoor") / "model.safetensors")
    executor = Counting(registry)
    more = go(
        spec(defenses=("none", "nad")), registry, tmp_path / "second", store, executor=executor
    )
    assert executor.kinds == ["backdoor", "repair", "evaluate"], "NAD is handed the teacher"
    assert numbers(more)[0] == numbers(rows)[0]


def test_a_damaged_input_is_noticed_when_it_is_opened(registry, tmp_path, done):
    rows, store = done
    for kind in ("backdoor", "clean"):
        corrupt(artefact(store, kind) / "model.safetensors")
    executor = Counting(registry)
    asked = spec(defenses=("none", "robustkd"), overrides=BRIEF | {"defense.robustkd.steps": "2"})
    more = go(asked, registry, tmp_path / "second", store, executor=executor)
    assert sorted(executor.kinds) == sorted(
        ["clean", "backdoor", "cleanse", "evaluate", "distill", "evaluate"]
    )
    assert numbers(more)[0] == numbers(rows)[0], "computed again it has the same bits"
    assert len(list((store.vault / "damaged").iterdir())) == 2
    assert not list((store.vault / "work").iterdir())


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-40]])
def test_a_row_torn_by_a_power_cut_is_made_again_of_its_measurements(
    registry, tmp_path, done, damage
):
    rows, store = done
    path = artefact(store, "row") / MANIFEST
    path.write_bytes(damage(path.read_bytes()))
    executor = Counting(registry)
    assert go(spec(), registry, tmp_path / "second", store, executor=executor) == rows
    assert executor.kinds == []
    assert store.find(rows[0]["config_digest"]) is not None


def test_a_measurement_that_is_damaged_before_its_row_is_made_is_measured_again(
    registry, tmp_path, done
):
    rows, _ = done
    store = Store(tmp_path / "other")

    class Damaging(Quiet):
        left = 1

        def stage_finished(self, number, kind, title, seconds, facts):
            if title.startswith("measure: ") and self.left:
                self.left -= 1
                corrupt(artefact(store, "evaluate") / MANIFEST)

    executor = Counting(registry)
    more = go(spec(), registry, tmp_path / "second", store, Damaging(), executor)
    assert numbers(more) == numbers(rows)
    plan = prepare.prepare(spec(), registry, store).plan
    measured = sum(stage.kind == "evaluate" for stage in plan.stages.values())
    assert executor.kinds.count("evaluate") == measured + 1
    assert verify_store(store)[1] == []


def test_run_json_leaves_the_hits_of_every_image_to_the_store(tmp_path, done):
    _, store = done
    stages_made = json.loads((tmp_path / "first" / "run.json").read_text())["stages"]
    measured = [stage for stage in stages_made if stage["kind"] == "evaluate"]
    assert measured
    for stage in measured:
        assert "variance" in store.find(stage["key"]).facts
        assert "variance" not in stage["facts"]
        assert stage["status"] == "ok"
    assert all("loss" in stage["facts"] for stage in stages_made if stage["kind"] == "distill")


def test_damaged_images_are_written_again(registry, tmp_path, done):
    _, store = done
    for m in list(map(store.find, store)):
        # Stages that need not run read none: the held-out images, and the provider's.
        if m.kind == "images" and not m.title.startswith(("held out", "provider")):
            corrupt(store.folder(m.key) / "images.safetensors")
    rows = go(spec(defenses=("nad",)), registry, tmp_path / "second", store)
    assert rows[0]["status"] == "ok"
    assert verify_store(store)[1] == []


def test_a_stage_that_failed_is_tried_again(registry, tmp_path, monkeypatch):
    store, repair = Store(tmp_path / "store"), stages.repair

    def fails(bench):
        raise DivergedError("too bad")

    with monkeypatch.context() as patch:
        patch.setattr(stages, "repair", fails)
        (row,) = go(spec(defenses=("nad",)), registry, tmp_path / "a", store)
    assert row["status"] == "diverged"
    executor = Counting(registry)
    (row,) = go(spec(defenses=("nad",)), registry, tmp_path / "a", store, executor=executor)
    assert row["status"] == "ok"
    assert executor.kinds == ["repair", "evaluate"]
    assert repair is stages.repair


@pytest.mark.parametrize("moment", range(8))
def test_a_disk_that_fills_up_costs_some_cells_now_and_nothing_later(
    registry, tmp_path, monkeypatch, moment
):
    """ENOSPC at one publication after another; once there is space again the run is completed."""
    store = Store(tmp_path / "store")
    publish, count = Store.publish, iter(range(1000))

    def full(self, *args, **kwargs):
        if next(count) in (moment, moment + 1):
            raise OSError(errno.ENOSPC, "No space left on device")
        return publish(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "publish", full)
        rows = go(spec(defenses=("none", "nad")), registry, tmp_path / "a", store)
    assert len(rows) == 2
    failed = [row for row in rows if row["status"] != "ok" or "no verdict" in row["reason"]]
    assert all("No space left" in row["reason"] for row in failed)
    whole = go(spec(defenses=("none", "nad")), registry, tmp_path / "a", store)
    assert [row["status"] for row in whole] == ["ok", "ok"]
    assert all(row["verdict"] for row in whole)
    assert verify_store(store)[1] == []


def test_two_runs_share_a_store_at_once(registry, tmp_path):
    """What another run computes is waited for; what it gave up is taken over."""
    store = Store(tmp_path / "store")
    ready = prepare.prepare(spec(), registry, store)
    clean = next(s for s in ready.plan.stages.values() if s.kind == "clean")
    store.check_writable()
    lock = store.lock(clean.key)

    class Watching(Counting):
        def wait(self, timeout):
            if lock.is_locked:
                assert "clean" not in self.kinds
                assert timeout < 1
                lock.release()  # the other run dies
            return super().wait(timeout)

    executor = Watching(registry)
    rows = go(spec(), registry, tmp_path / "a", store, executor=executor)
    assert rows[0]["status"] == "ok"
    # what does not need the other run's stage goes ahead
    assert executor.kinds[:2] == ["alone", "clean"]


def test_a_run_that_computed_nothing_still_says_how_everything_was_made(registry, tmp_path, done):
    _, store = done
    go(spec(), registry, tmp_path / "again", store, executor=Counting(registry))
    first, again = (
        json.loads((tmp_path / name / "run.json").read_text())["stages"]
        for name in ("first", "again")
    )
    assert {stage["status"] for stage in first} == {"ok"}
    assert {stage["status"] for stage in again} == {"cached"}
    for old, new in zip(first, again, strict=True):
        assert {name: old[name] for name in ("key", "seconds", "facts", "files")} == {
            name: new[name] for name in ("key", "seconds", "facts", "files")
        }


def test_the_plan_says_what_is_there_and_why_something_runs(registry, tmp_path, done):
    _, store = done

    def planned(**asked):
        found, rows = forecast(prepare.prepare(spec(**asked), registry, store).plan, store)
        return {f.stage.title: f for f in found}, rows

    same, rows = planned()
    assert (rows, {f.state for f in same.values()}) == (1, {"cached"})
    more, rows = planned(defenses=("none", "nad"))
    assert (rows, sum(f.state == "run" for f in more.values())) == (1, 2)
    assert more["nad: repair wrn10_1 from wrn10_1 with badnets"].why == "new"
    changed, rows = planned(overrides=BRIEF | {"distill.lr": "0.03"})
    found = changed["distill wrn10_1 from wrn10_1 with badnets by fkd"]
    assert (rows, found.state, found.why) == (0, "run", "changed: recipe.lr 0.1 -> 0.03")
    assert found.cost is not None
    assert not found.cost.exact
    assert changed["train clean wrn10_1"].state == "cached"
    other_seed, _ = planned(seeds=(1,))
    assert other_seed["train clean wrn10_1"].cost.exact
    other_teacher, _ = planned(pairs=(("resnet20", "wrn10_1"),))
    in_another = other_teacher["implant badnets in resnet20"].cost
    assert in_another is not None, "the same attack in another network, by its arithmetic"
    assert not in_another.exact
    other_attack, _ = planned(attacks=("htba",))
    assert other_attack["implant htba in wrn10_1"].cost is None, "no attack like it was run here"
    corrupt(artefact(store, "distill", "from wrn10_1 with badnets by fkd") / "manifest.json")
    damaged, _ = planned(defenses=("nad",))
    assert "no longer in the store" in {f.why for f in damaged.values()}


def test_a_training_of_more_images_costs_more_in_proportion(registry, tmp_path, done):
    _, store = done
    title = "distill wrn10_1 from wrn10_1 with badnets by fkd"
    notes = store.vault / "timings.jsonl"
    told = [json.loads(line) for line in notes.read_text().splitlines()]
    notes.write_text(
        "".join(json.dumps(note | {"seconds": note["images"] / 50}) + "\n" for note in told)
    )

    def planned(epochs):
        asked = spec(seeds=(1,), overrides=BRIEF | {"distill.epochs": epochs})
        found, _ = forecast(prepare.prepare(asked, registry, store).plan, store)
        return next(f for f in found if f.stage.title == title)

    once, thrice = planned("1"), planned("3")
    assert once.cost.exact
    assert thrice.stage.images == 3 * once.stage.images > 0
    assert thrice.stage.networks == ("wrn10_1", "wrn10_1"), "the student, then its teacher"
    assert not thrice.cost.exact
    assert (once.cost.seconds, thrice.cost.seconds) == (
        once.stage.images / 50,
        pytest.approx(thrice.stage.images / 50),
    )
    assert thrice.cost.bytes == once.cost.bytes


def test_the_median_of_a_history_is_taken_once_for_stages_that_are_alike(
    registry, tmp_path, done, monkeypatch
):
    _, store = done
    median, taken = timings.statistics.median, []
    monkeypatch.setattr(timings.statistics, "median", lambda s: taken.append(1) or median(s))

    def count(seeds):
        taken.clear()
        plan = prepare.prepare(spec(seeds=seeds), registry, store).plan
        assert all(f.cost for f in forecast(plan, store)[0])
        return len(taken)

    assert count((1,)) == count(tuple(range(1, 9))) > 0


def test_estimates_survive_a_torn_line(registry, tmp_path, done):
    _, store = done
    with (store.vault / "timings.jsonl").open("a") as file:
        file.write('{"kind": "clean", "ti')
    found, _ = forecast(prepare.prepare(spec(seeds=(1,)), registry, store).plan, store)
    assert all(f.cost is not None for f in found)


def test_verify_finds_what_was_changed(registry, tmp_path, done):
    _, store = done
    out = tmp_path / "first"
    ready = prepare.prepare(read_request(out), registry, store)

    def check():
        results = read_results(out)
        lines = choose(results, ready.plan, 3, seed=0)
        folder = tmp_path / f"again{len(list(tmp_path.iterdir()))}"
        differences = again(
            results, lines, ready, registry, store, folder, Quiet(), InlineExecutor(registry)
        )
        return (
            other_keys(results, ready.plan),
            check_weights(results, ready.plan, store),
            differences,
        )

    assert check() == (OtherKeys([], [], {}), (1, [], []), [])
    table = pd.read_csv(out / "results.csv", dtype=str, keep_default_na=False)
    told = table.copy()
    told.loc[0, "student_sha256"] = "0" * 64
    told.loc[0, "reason"] = "all is well"
    told.to_csv(out / "results.csv", index=False)
    _, (same, wrong, gone), differences = check()
    assert (same, wrong, gone) == (0, [2], [])
    assert {d.column for d in differences} == {"student_sha256", "reason"}
    told = table.copy()
    told.loc[0, "config_digest"] = "f" * 64
    told.to_csv(out / "results.csv", index=False)
    others, (same, _, _), differences = check()
    assert (others, same, differences) == (OtherKeys([2], [], {}), 0, [])


def test_verify_needs_the_folder_of_a_run(tmp_path):
    with pytest.raises(ConfigError, match=r"has no run\.json that can be read"):
        read_request(tmp_path)
    assert CliRunner().invoke(main, ["verify", str(tmp_path)]).exit_code == 2


def test_several_presets_and_datasets_make_one_table(registry, tmp_path):
    store = Store(tmp_path / "store")
    rows = go(spec(presets=("quick", "standard"), controls=False), registry, tmp_path / "a", store)
    assert [row["preset"] for row in rows] == ["quick", "standard"]
    assert len(pd.read_csv(tmp_path / "a" / "leaderboard.csv")) == 2
    assert len(list((tmp_path / "a").glob("trigger-*.png"))) == 2
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert [part["preset"]["name"] for part in record["config"]["parts"]] == ["quick", "standard"]
