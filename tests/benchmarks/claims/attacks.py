"""What the pages on attacks, triggers and seeds state."""

from kdbench.report.noise import t_interval
from tests.benchmarks.claims.common import (
    THREE,
    claim,
    each,
    several,
    span,
    times,
    travelled,
    value,
    values,
)
from tests.benchmarks.pages import render, rows

# does-a-backdoor-travel


def undefended(attack):
    return several((*THREE, "gtsrb-controls"), defense="none", distiller="fkd", attack=attack)


@claim("does-a-backdoor-travel", index=True)
def ckd_travels():
    return f"CKD: yes, in {times(map(travelled, undefended('ckd')))} runs."


@claim("does-a-backdoor-travel", index=True)
def lba_travels():
    return f"LBA: in {times(map(travelled, undefended('lba')))} runs."


@claim("does-a-backdoor-travel")
def how_far_ckd_travels():
    far = [row["transferred"] for row in undefended("ckd") if travelled(row)]
    (near,) = [row["transferred"] for row in undefended("ckd") if not travelled(row)]
    count = times(map(travelled, undefended("ckd")))
    return (
        f"CKD moved {span(far)} points in {count} runs. "
        f"In the run that is left it moved {near:.0f} points."
    )


@claim("does-a-backdoor-travel")
def how_far_lba_travels():
    far = [row["transferred"] for row in undefended("lba") if travelled(row)]
    near = [row["transferred"] for row in undefended("lba") if not travelled(row)]
    count = times(map(travelled, undefended("lba")))
    return f"LBA moved {span(far)} points in {count} runs, and {span(near)} points in the others."


@claim("does-a-backdoor-travel")
def c1_is_low():
    return (
        f"C1 was at most {max(values('c1_asr', undefended(('ckd', 'lba')))):.1f} % in these runs."
    )


@claim("does-a-backdoor-travel")
def accuracy_shows_nothing():
    cells = undefended(("ckd", "lba"))
    students, teachers = (span(values(n, cells), 1) for n in ("student_acc", "teacher_acc"))
    return f"the undefended students have {students} %, their teachers {teachers} %."


@claim("does-a-backdoor-travel")
def distilling_is_worth_something():
    return (
        f"a student alone (C2) reaches {span(values('c2_acc', undefended(('ckd', 'lba'))), 1)} %."
    )


@claim("does-a-backdoor-travel")
def larger_patch():
    larger = value("gtsrb-lba-patch50", "transferred")
    usual = value(THREE[0], "transferred", attack="lba", defense="none", seed=0)
    noise = value(THREE[0], "transferred", attack="lba.release")
    return (
        f"LBA's larger patch moved {larger:.0f} points at seed 0, where the patch of 0.4 moved "
        f"{usual:.0f}. The released noise (`lba.release`) moved {noise:.0f} points."
    )


@claim("does-a-backdoor-travel")
def badnets_and_htba():
    badnets, htba = rows("fig2-signs", attack="badnets"), rows("gtsrb-htba")
    assert max(values("student_asr", badnets)) == 0
    assert not any(map(travelled, htba))
    return (
        f"BadNets gets into the teacher ({span(values('teacher_asr', badnets))} % on the drawn "
        "signs) "
        "and does not travel at all ([variance](variance.md) has these runs). HTBA hardly gets "
        "into "
        f"the teacher: {max(values('teacher_asr', htba)):.1f} % at most."
    )


# trigger-strength

STRENGTHS = rows("gtsrb-strengths")
DEFENDED = [row for row in STRENGTHS if row["defense"] == "robustkd"]


@claim("trigger-strength", index=True)
def between_c1_and_c3():
    lowered = times(row["student_asr"] < row["c3_asr"] for row in DEFENDED)
    above = times(row["student_asr"] > row["c1_asr"] for row in DEFENDED)
    gap = [row["student_asr"] - row["c1_asr"] for row in DEFENDED]
    return (
        f"RobustKD lowered the ASR in {lowered} comparisons and stayed above C1 in {above}, by "
        f"{min(gap):.1f} to {max(gap):.0f} points."
    )


@claim("trigger-strength")
def seeds_vary_more():
    ckd = [row["transferred"] for row in DEFENDED if row["seed"] == 0 and "ckd" in row["attack"]]
    removed = values("removed", [row for row in DEFENDED if row["seed"] == 2])
    return (
        "Results vary more between seeds than between trigger strengths. CKD barely transfers at "
        "seed "
        f"0 ({span(ckd)} points). At seed 2 RobustKD removes only {span(removed)} %."
    )


@claim("trigger-strength")
def strengths_under_ten():
    strong = list(filter(travelled, DEFENDED))
    low = [row for row in strong if row["student_asr"] < 10]
    assert {(row["attack"], row["seed"]) for row in low} == {("ckd.k10", 1), ("ckd", 1)}
    return f"RobustKD came under 10 % in {len(low)} of the {len(strong)} runs in which 30 points"


@claim("trigger-strength")
def stronger_is_harder():
    one, two = (
        each(
            value("gtsrb-strengths", "removed", attack=a, defense="robustkd", seed=seed)
            for a in ("ckd.k10", "ckd", "ckd.k30")
        )
        for seed in (1, 2)
    )
    return f"the less RobustKD removes: {one} % at seed 1, and {two} % at seed 2."


@claim("trigger-strength")
def c1_grows():
    c1 = span(values("c1_asr", [row for row in STRENGTHS if row["attack"] == "lba.p50"]))
    return f"At half of the side {c1} % of the images fool a student that never saw a backdoor."


@claim("trigger-strength")
def strengths_cost():
    return f"RobustKD costs {span(values('acc_lost', DEFENDED), 1)} points of ACC."


# variance

TRAINED = rows("fig2-signs")


def ratios(attack, name="variance_ratio"):
    return t_interval(values(name, [row for row in TRAINED if row["attack"] == attack]))


@claim("variance", index=True)
def less_variance():
    return f"in {times(ratio < 1 for ratio in values('variance_ratio', TRAINED))} runs."


@claim("variance")
def untriggered():
    lba, sham = ratios("lba")[0], ratios("badnets.sham")[0]
    return (
        f"On clean images LBA's teacher has {lba:.2f} of the clean variance, `badnets.sham` "
        f"{sham:.2f}."
    )


@claim("variance")
def triggered():
    mean, low, high = ratios("lba", "variance_ratio_triggered")
    assert low > 1.3
    return f"LBA's teacher has {mean:.2f} times the clean variance ({low:.2f} to {high:.2f})."


@claim("variance")
def wide_intervals():
    badnets, ckd = (ratios(a, "variance_ratio_triggered") for a in ("badnets", "ckd"))
    assert badnets[1] < 1 < badnets[2]
    assert ckd[1] < 1 < ckd[2]
    return f"BadNets ({badnets[0]:.2f}) and CKD ({ckd[0]:.2f}) have wide intervals: they include 1."


@claim("variance")
def htba_is_not_in():
    htba = max(values("teacher_asr", [row for row in TRAINED if row["attack"] == "htba"]))
    return f"HTBA does not get into the teacher (ASR at most {htba:.1f} %)"


@claim("variance")
def clean_variance():
    clean = {row["seed"]: row["clean_variance"] for row in TRAINED}
    mean, low, high = t_interval(list(clean.values()))
    return f"The clean teachers' own variance is {mean:.1f} ({low:.1f} to {high:.1f})."


# adaptive-attacks

ADAPTIVE = rows("gtsrb-adaptive")
PLAIN = [row for row in ADAPTIVE if row["attack"] == "ckd"]


@claim("adaptive-attacks")
def adaptive_teachers():
    cells = [row["teacher_asr"] for row in ADAPTIVE if row["attack"] != "ckd"]
    return f"Both adaptive teachers keep at least {min(cells):.1f} % ASR."


@claim("adaptive-attacks", index=True)
def adaptive_removed():
    lowvar = value("gtsrb-adaptive", "removed", attack="ckd.lowvar", defense="robustkd")
    plain = value("gtsrb-adaptive", "removed", attack="ckd", defense="robustkd", seed=0)
    return (
        f"RobustKD removed {lowvar:.0f} % of `ckd.lowvar`, and {plain:.0f} % of plain CKD at the "
        "same seed."
    )


@claim("adaptive-attacks")
def adaptive_variance():
    low, plain = (
        value("gtsrb-adaptive", "teacher_variance", attack=a, defense="none", seed=0)
        for a in ("ckd.lowvar", "ckd")
    )
    return f"{low:.1f} instead of {plain:.1f} at seed 0."


@claim("adaptive-attacks")
def plain_by_seed():
    return f"RobustKD removed {each(values('removed', PLAIN))} % of it by seed."


@claim("adaptive-attacks")
def plain_variance():
    alone = [row for row in PLAIN if row["defense"] == "none"]
    count = times(row["teacher_variance"] < row["clean_variance"] for row in alone)
    teacher, clean = (
        span(values(name, alone), 1) for name in ("teacher_variance", "clean_variance")
    )
    return (
        f"Plain CKD's teacher has less variance than the clean one in {count} seeds ({teacher} "
        "against "
        f"{clean})"
    )


# a-seed-is-a-draw


def twice():
    """The same cells of two measurements."""
    runs = several(
        (*THREE[:2], "gtsrb-controls"), distiller="fkd", attack=("ckd", "lba"), defense="robustkd"
    )
    cells = {}
    for row in runs:
        cells.setdefault((row["pair"], row["attack"], row["seed"]), []).append(row)
    return cells


@claim("a-seed-is-a-draw", index=True)
def c3_differs():
    gaps = [abs(a["c3_asr"] - b["c3_asr"]) for a, b in twice().values()]
    far = [gap for gap in gaps if gap > 0]
    return f"C3 differed by {span(far)} points in {len(far)} of {len(gaps)} runs"


@claim("a-seed-is-a-draw")
def teachers_agree():
    gap = max(abs(a["teacher_acc"] - b["teacher_acc"]) for a, b in twice().values())
    return f"The teachers' ACC differs by at most {gap:.1f} points between the two runs of a seed."


@claim("a-seed-is-a-draw")
def the_same_run():
    (key,) = [key for key, (a, b) in twice().items() if a["student_sha256"] == b["student_sha256"]]
    assert key == ("wrn28_4-resnet56", "lba", 1)
    return "with the same code (LBA in ResNet-56, seed 1)."


@claim("a-seed-is-a-draw")
def sign_changes():
    before, after = (
        render.COLUMNS["removed"].value(row) for row in twice()["wrn28_4-wrn16_2", "ckd", 1]
    )
    return f"RobustKD removed {before:.0f} % in the one run and {after:.0f} % in the other."


@claim("a-seed-is-a-draw")
def devices():
    gpu, cpu = twice()["wrn28_4-resnet56", "ckd", 1]
    assert (gpu["device"], cpu["device"]) == ("NVIDIA H200", "cpu")
    return (
        f"a GPU gave {gpu['c3_asr']:.1f} and {gpu['student_asr']:.1f} % at seed 1 of CKD, where "
        "the CPU has "
        f"{cpu['c3_asr']:.1f} and {cpu['student_asr']:.1f} %."
    )


@claim("first-look", index=True)
def adba_works_without_the_backdoor():
    kd, fkd = (
        value("first-look", "c1_asr", attack="adba", distiller=name) for name in ("kd", "fkd")
    )
    return (
        f"ADBA's trigger works without the backdoor: C1 is {kd:.1f} with KD and {fkd:.1f} % with "
        "FKD."
    )
