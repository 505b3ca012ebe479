"""A whole run on tiny networks: everything that a person relies on, written to disk."""

import hashlib
import json

import pandas as pd
import pytest
import torch

from kdbench.bench.plan.prepare import load
from kdbench.bench.request.spec import RunSpec, resolve
from kdbench.errors import DivergedError
from kdbench.metrics import evaluate
from kdbench.numerics import Numerics
from kdbench.report.columns import COLUMNS
from tests.runs import ANY_TEACHER, go

MEASURING = ("check", "evaluate", "picture")
SMALL = {
    "clean.epochs": "8",
    "clean.min_steps": "0",
    "poison.epochs": "10",
    "poison.min_steps": "0",
    "distill.epochs": "3",
    "distill.min_steps": "0",
    "repair.epochs": "1",
    "repair.min_steps": "0",
    "attack.badnets.poison_rate": "0.15",
}


def spec(**changes):
    asked = {
        "attacks": ("badnets",),
        "defenses": ("none", "nad", "robustkd"),
        "pairs": (("wrn10_1", "wrn10_1"),),
        "numerics": "fp32",
        "num_classes": 4,
        "train_size": 600,
        "test_size": 200,
        "overrides": {**SMALL, "defense.robustkd.steps": "5"},
    }
    return RunSpec(**(asked | changes))


@pytest.fixture(scope="module")
def finished(registry, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    rows = go(spec(), registry, out)
    return rows, out


def test_badnets_poisons_the_teacher_and_the_row_carries_its_controls(finished):
    rows, _ = finished
    assert [row["status"] for row in rows] == ["ok"] * 3
    undefended = rows[0]
    assert undefended["teacher_asr"] > 90
    assert undefended["teacher_acc"] > 60
    assert undefended["n_test"] == 200
    assert undefended["n_asr"] == 150
    assert undefended["student_asr"] == undefended["c3_asr"]
    for row in rows:
        assert row["transferred"] == pytest.approx(row["c3_asr"] - row["c1_asr"])
        assert row["verdict"] in ("stopped", "partly", "not stopped", "inconclusive")
        assert len({r["teacher_asr"] for r in rows}) == 1, "one teacher serves all defenses"
        # Only RobustKD hands on another teacher than the backdoored one; the row shows which.
        assert (row["cleansed_acc"] is not None) == (row["defense"] == "robustkd")


def test_the_folder_holds_what_the_readme_promises(finished):
    rows, out = finished
    table = pd.read_csv(out / "results.csv")
    assert list(table.columns) == list(COLUMNS)
    assert len(table) == len(rows)
    assert table.student_acc.tolist() == pytest.approx([row["student_acc"] for row in rows])
    assert len(pd.read_csv(out / "leaderboard.csv")) == 3
    record = json.loads((out / "run.json").read_text())
    assert record["config"]["parts"][0]["methods"]["attack.badnets"]["poison_rate"] == 0.15
    trained = [stage for stage in record["stages"] if stage["kind"] not in MEASURING]
    assert {stage["kind"] for stage in trained} == {
        "clean",
        "alone",
        "backdoor",
        "distill",
        "cleanse",
        "repair",
    }
    assert all(stage["facts"]["loss"] > 0 for stage in trained)
    picture = out / "trigger-badnets-wrn10_1-seed0.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    (drawn,) = [stage for stage in record["stages"] if stage["kind"] == "picture"]
    assert drawn["files"]["trigger.png"] == hashlib.sha256(picture.read_bytes()).hexdigest()
    assert 5 < drawn["facts"]["psnr_db"] < 60
    assert 0 < drawn["facts"]["linf"] <= 1
    assert 0 < drawn["facts"]["images"] <= 6


def numbers(rows):
    return [{k: v for k, v in row.items() if k not in ("wall_s", "peak_mem_mb")} for row in rows]


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(registry, tmp_path):
    few = {**SMALL, **ANY_TEACHER, "clean.epochs": "1", "poison.epochs": "1", "distill.epochs": "1"}

    def measured_with(name, seed):
        asked = spec(defenses=("none",), seeds=(seed,), overrides=few)
        return numbers(go(asked, registry, tmp_path / name))

    first, again, other = measured_with("a", 0), measured_with("b", 0), measured_with("c", 1)
    assert first == again
    measured = ("clean_acc", "teacher_acc", "student_acc", "student_ra")
    assert [first[0][k] for k in measured] != [other[0][k] for k in measured]


@pytest.fixture(scope="module")
def equal(registry, tmp_path_factory):
    """(attack, defense) -> row, for methods that have to be equal to others once a weight is 0."""
    once = {f"{key}.epochs": "1" for key in ("clean", "poison", "distill", "repair")} | ANY_TEACHER
    ckd = {
        "attack.ckd.steps": "5",
        "attack.ckd.search_batch": "16",
        "attack.ckd.lowvar.lowvar": "0",
    }
    none = {"defense.nad.none.beta": "[0, 0, 0]"}
    asked = spec(
        attacks=("ckd", "ckd.lowvar"),
        defenses=("none", "robustkd.zero", "finetune", "nad.none"),
        train_size=200,
        overrides={
            key: value
            for key, value in {**SMALL, **once, **ckd, **none}.items()
            if "badnets" not in key
        },
    )
    rows = go(asked, registry, tmp_path_factory.mktemp("equal"))
    return {(row["attack"], row["defense"]): row for row in rows}


@pytest.mark.parametrize(
    ("role", "one", "other"),
    [
        ("student", ("ckd", "robustkd.zero"), ("ckd", "none")),
        ("student", ("ckd", "nad.none"), ("ckd", "finetune")),
        ("teacher", ("ckd.lowvar", "none"), ("ckd", "none")),
        ("student", ("ckd.lowvar", "robustkd.zero"), ("ckd", "none")),
    ],
)
def test_with_weight_zero_a_method_is_another_one_bit_for_bit(equal, role, one, other):
    assert equal[one]["status"] == equal[other]["status"] == "ok"
    assert equal[one][f"{role}_sha256"] == equal[other][f"{role}_sha256"]


def test_what_ought_to_differ_differs(equal):
    assert equal["ckd", "finetune"]["student_sha256"] != equal["ckd", "none"]["student_sha256"]


def test_control_c2_is_in_every_row_and_the_same_for_all(equal):
    rows = list(equal.values())
    assert len({(row["c2_acc"], row["c2_asr_hits"]) for row in rows}) == 1
    assert all(row["c2_acc"] != row["c3_acc"] for row in rows)


def test_feature_variance_is_in_the_row(equal):
    row = equal["ckd", "robustkd.zero"]
    assert row["cleansed_variance"] == row["teacher_variance"] > 0
    assert row["clean_variance"] > 0
    assert row["teacher_variance_triggered"] != row["teacher_variance"]


def test_a_diverged_training_is_a_row_that_says_so_and_never_a_zero(registry, tmp_path):
    asked = spec(defenses=("none", "nad"), overrides={**SMALL, "repair.lr": "1e30"})
    rows = go(asked, registry, tmp_path)
    assert [row["status"] for row in rows] == ["ok", "diverged"]
    assert "not finite" in rows[1]["reason"]
    assert rows[1]["student_asr"] is None
    table = pd.read_csv(tmp_path / "results.csv")
    assert pd.isna(table.student_asr[1])


def test_a_network_that_already_diverged_is_not_measured(registry, tmp_path):
    """Weights can overflow after the loop's last look at the loss; NaN logits would read as class
    0."""
    asked = spec()
    dataset = load(asked, resolve(asked, registry))
    with pytest.raises(DivergedError, match="not finite"):
        evaluate(
            lambda x: torch.full((len(x), 4), float("nan")),
            lambda x: x,
            dataset.test,
            0,
            Numerics(),
        )
