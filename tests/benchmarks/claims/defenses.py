"""What the pages on RobustKD, its controls and other defenses state."""

from statistics import fmean

from tests.benchmarks.claims.common import (
    THREE,
    claim,
    each,
    lower,
    matched,
    setting_means,
    several,
    significant,
    span,
    times,
    travelled,
    value,
    values,
)
from tests.benchmarks.pages import rows

# robustkd-on-three-pairs


def robustkd(**kept):
    return several(THREE, distiller="fkd", defense="robustkd", **kept)


@claim("robustkd-on-three-pairs")
def cost():
    means = [by["robustkd"] for by in setting_means("acc_lost").values()]
    return f"RobustKD costs at most {max(means):.1f} points of ACC on average."


@claim("robustkd-on-three-pairs", index=True)
def under_ten():
    count = times(row["student_asr"] < 10 for row in filter(travelled, robustkd()))
    return f"came under 10 % in {count.replace('of', 'of the')} runs"


@claim("robustkd-on-three-pairs")
def ckd_under_ten():
    return (
        "CKD came under 10 % in "
        f"{times(row['student_asr'] < 10 for row in robustkd(attack='ckd'))} runs."
    )


@claim("robustkd-on-three-pairs")
def mostly_lower():
    cells = several(THREE, distiller="fkd", attack=("ckd", "lba"))
    return f"RobustKD lowered the ASR in {lower(matched(cells, 'robustkd', 'none'))} runs."


@claim("robustkd-on-three-pairs")
def removed_by_pair():
    a, b, c = (
        span(values("removed", rows(f, attack="ckd", distiller="fkd", defense="robustkd")))
        for f in THREE
    )
    lba = values("removed", robustkd(attack="lba"))
    assert len(lba) == 4
    return (
        f"Of CKD it removed {a} % in WRN-28-4 -> WRN-16-2, {b} % in WRN-28-4 -> ResNet-56, and "
        f"{c} % in WRN-16-2 -> WRN-16-1. Of LBA it removed {span(lba)} %, in the four runs"
    )


@claim("robustkd-on-three-pairs")
def above_c1():
    intervals = {
        row["attack"]: row
        for row in significant(THREE[0])
        if (row["defense_a"], row["defense_b"]) == ("C1", "robustkd")
    }
    for folder in THREE[1:]:
        assert not [
            r for r in significant(folder) if {"C1", "robustkd"} == {r["defense_a"], r["defense_b"]}
        ]
    ckd, lba = (
        f"{float(intervals[n]['low']):.0f} to {float(intervals[n]['high']):.0f}"
        for n in ("ckd", "lba")
    )
    return f"by {ckd} points for CKD and by {lba} points for LBA."


@claim("robustkd-on-three-pairs")
def handed_on():
    return f"still obeys the trigger ({span(values('cleansed_asr', robustkd()), 1)} %)."


@claim("robustkd-on-three-pairs")
def statistics_in_both_phases():
    stored = values(
        "removed", rows(THREE[2], attack="ckd", distiller="fkd.evalbn", defense="robustkd")
    )
    batch = values("removed", rows(THREE[2], attack="ckd", defense="robustkd.batchbn"))
    return (
        f"stored statistics removed {each(stored)} % by seed, and batch statistics {each(batch)} % "
        "at the two seeds measured."
    )


@claim("robustkd-on-three-pairs")
def c4_is_c3():
    zeros = several((*THREE, "gtsrb-controls"), defense="robustkd.zero")
    assert zeros
    assert all(row["student_asr"] == row["c3_asr"] for row in zeros)
    return "C4 equals C3 exactly, as it should."


# robustkd-against-random-offset

CONTROLS = rows("gtsrb-controls")


def against_c5():
    return matched(CONTROLS, "robustkd", "robustkd.random")


@claim("robustkd-against-random-offset", index=True)
def below_c5():
    assert not [r for r in significant("gtsrb-controls") if r["defense_a"] != "C1"]
    return f"RobustKD left a lower ASR than C5 in {lower(against_c5())} runs."


@claim("robustkd-against-random-offset")
def large_gaps():
    asr = {
        (a["pair"], a["attack"], a["seed"]): (a["student_asr"], b["student_asr"])
        for a, b in against_c5()
    }
    one, two = (asr["wrn28_4-resnet56", "ckd", seed] for seed in (1, 2))
    wide = [
        asr[key]
        for key in (
            ("wrn28_4-wrn16_2", "ckd", 0),
            ("wrn28_4-wrn16_2", "lba", 0),
            ("wrn28_4-resnet56", "lba", 0),
        )
    ]
    at_zero = ", ".join(f"{a:.1f} against {b:.1f} %" for a, b in wide)
    rest = [b - a for a, b in asr.values() if b > a and (a, b) not in (one, two, *wide)]
    return (
        f"The gap is large for CKD in ResNet-56 ({one[0]:.0f} and {two[0]:.0f} % against "
        f"{one[1]:.0f} and {two[1]:.0f} %, where anything travelled) and at seed 0 ({at_zero}). - "
        "It is "
        f"{span(rest)} points in the other runs in which RobustKD is lower."
    )


@claim("robustkd-against-random-offset")
def c5_on_the_small_pair():
    cells = rows(THREE[2])
    count = lower(matched(cells, "robustkd", "robustkd.random"))
    batch, stored = (
        each(
            values("removed", rows(THREE[2], attack="ckd", defense="robustkd.random", distiller=d))
        )
        for d in ("fkd", "fkd.evalbn")
    )
    return (
        f"In WRN-16-2 -> WRN-16-1 RobustKD was lower in {count} runs. C5 alone removed {batch} % "
        "of "
        f"CKD there, and {stored} % with stored statistics."
    )


@claim("robustkd-against-random-offset")
def controls_under_ten():
    strong = [row for row in CONTROLS if row["defense"] == "robustkd" and travelled(row)]
    low = [row for row in strong if row["student_asr"] < 10]
    assert {row["attack"] for row in low} == {"ckd"}
    assert sum(row["student_asr"] > row["c3_asr"] for row in strong) == 1
    return (
        f"RobustKD came under 10 % in {len(low)} of the {len(strong)} runs in which 30 points "
        "travelled, "
        f"both of CKD. One of the {len(strong)} ended with a higher ASR than no defense."
    )


@claim("robustkd-against-random-offset")
def both_hand_on_the_backdoor():
    cells = [row for row in CONTROLS if row["defense"] in ("robustkd", "robustkd.random")]
    return f"still obeys the trigger ({span(values('cleansed_asr', cells), 1)} %)."


@claim("robustkd-against-random-offset")
def c4_in_resnet():
    (zero,) = rows("gtsrb-controls", defense="robustkd.zero")
    assert zero["student_asr"] == zero["c3_asr"]
    return f"{zero['student_asr']:.1f} % for LBA in ResNet-56 at seed {zero['seed']}."


# weaker-guidance

WEAK = [row for row in CONTROLS if row["distiller"] == "fkd.weak"]
BESIDE = {
    (r["pair"], r["attack"], r["seed"], r["defense"]): r
    for r in CONTROLS
    if r["distiller"] == "fkd"
}


def beside(row, defense):
    return BESIDE[row["pair"], row["attack"], row["seed"], defense]


@claim("weaker-guidance", index=True)
def weaker_is_lower():
    count = times(row["student_asr"] < beside(row, "robustkd")["student_asr"] for row in WEAK)
    lost = {}
    for row in WEAK:
        cost = beside(row, "none")["student_acc"] - row["student_acc"]
        lost.setdefault((row["pair"], row["attack"]), []).append(cost)
    return (
        "Distilling with a tenth of the weight, and no defense, gave a lower ASR than RobustKD in "
        f"{count} runs. It cost {span(map(fmean, lost.values()), 1)} points of accuracy."
    )


@claim("weaker-guidance")
def weaker_under_ten():
    strong = [row for row in WEAK if travelled(beside(row, "none"))]
    low = sum(row["student_asr"] < 10 for row in strong)
    return (
        f"C6 came under 10 % in {low} of the {len(strong)} runs in which 30 points travelled with"
    )


@claim("weaker-guidance")
def weaker_in_resnet():
    cells = [row for row in WEAK if row["student"] == "resnet56"]
    return f"next to nothing is left: {max(values('student_asr', cells)):.1f} % at most."


@claim("weaker-guidance")
def weaker_guidance_does_not_stop_it():
    cells = [row for row in WEAK if (row["student"], row["attack"]) == ("wrn16_2", "ckd")]
    return f"CKD still has an ASR of {span(values('student_asr', cells))} % in WRN-16-2."


@claim("weaker-guidance")
def weaker_and_alone():
    acc, alone = (span(values(name, WEAK), 1) for name in ("student_acc", "c2_acc"))
    return f"Students of C6 have {acc} % ACC. Students without any teacher (C2) have {alone} %."


# other-repairs


@claim("other-repairs", index=True)
def anp_is_lowest():
    asr, cost = setting_means("student_asr"), setting_means("acc_lost")
    count = times(min(by, key=by.get) == "anp" for by in asr.values())
    return (
        f"ANP has the lowest mean ASR in {count} settings, and costs "
        f"{span([by['anp'] for by in cost.values()], 1)} points of ACC."
    )


@claim("other-repairs")
def others_are_lowest():
    asr = setting_means("student_asr").values()
    robust, prune = (
        times(min(by, key=by.get) == d for by in asr) for d in ("robustkd", "fineprune")
    )
    return f"RobustKD has the lowest mean ASR in {robust} settings, and fine-pruning in {prune[0]}."


@claim("other-repairs")
def removed_by_repair():
    cells = several(THREE, distiller="fkd", attack=("ckd", "lba"))
    a, b, c, d, e = (
        span(values("removed", [row for row in cells if row["defense"] == name]))
        for name in ("finetune", "nad", "fineprune", "anp", "robustkd")
    )
    return f"Fine-tuning removed {a} %, NAD {b} %, fine-pruning {c} %, ANP {d} % (RobustKD: {e} %)."


@claim("other-repairs")
def repairs_cost_nothing():
    gains = [
        -by[name]
        for by in setting_means("acc_lost").values()
        for name in ("finetune", "nad", "fineprune")
    ]
    return f"On average their students have {span(gains, 1)} points more than the undefended ones."


@claim("other-repairs")
def what_paired_tells():
    differences = {
        (folder, r["attack"], r["defense_a"], r["defense_b"]): float(r["difference"])
        for folder in THREE
        for r in significant(folder)
        if r["distiller"] == "fkd"
    }
    tuned = {(folder, "ckd", "C1", "finetune") for folder in THREE}
    assert tuned <= set(differences)
    defenses = {key: d for key, d in differences.items() if key[2] != "C1"}
    assert set(defenses) == {
        (THREE[0], "lba", "finetune", "none"),
        (THREE[2], "ckd", "finetune", "nad"),
    }
    return (
        "NAD is better than fine-tuning against CKD in WRN-16-2 -> WRN-16-1, by "
        f"{-defenses[THREE[2], 'ckd', 'finetune', 'nad']:.1f} points."
    )


@claim("other-repairs")
def nad_on_a_cpu():
    return f"A CPU run of it has {value('gtsrb-controls', 'student_asr', defense='nad'):.1f} %"


# defenses-of-the-field

SIGNS = "signs-defenses"
#: They leave the backdoor.
KEEP = ("finetune", "nad", "ulrl", "argd")


def removed(*defenses, **kept):
    return values(
        "removed", rows(SIGNS, attack=kept.get("attack", ("ckd", "lba")), defense=defenses)
    )


def lost(*defenses):
    return values("acc_lost", rows(SIGNS, attack=("ckd", "lba"), defense=defenses))


def flagged_target(defense, attack):
    return times(r["target_flagged"] == "yes" for r in rows(SIGNS, attack=attack, defense=defense))


@claim("defenses-of-the-field")
def four_leave_it():
    return f"Fine-tuning, NAD, ULRL and ARGD removed {span(removed(*KEEP))} %."


@claim("defenses-of-the-field", index=True)
def ibau_removes_most():
    most = times(n > 70 for n in removed("ibau"))
    return (
        f"I-BAU removed over 70 % in {most} runs, and cost {span(lost('ibau'), 1)} points of ACC."
    )


@claim("defenses-of-the-field")
def blended_triggers():
    lba, ckd = (each(removed("nc.blend", attack=name)) for name in ("lba", "ckd"))
    return (
        f"Neural Cleanse with blended triggers (`nc.blend`) removed {lba} % of LBA, and {ckd} % of "
        f"CKD, for {span(lost('nc.blend'), 1)} points."
    )


@claim("defenses-of-the-field")
def by_seed():
    ftsam, bcu = (span(removed(name)) for name in ("ftsam", "bcu"))
    return f"FT-SAM removed {ftsam} % and BCU {bcu} %, by seed and attack."


@claim("defenses-of-the-field")
def consistency_removes():
    return f"Consistency removed {span(removed('consistency'))} %."


@claim("defenses-of-the-field")
def a_drawn_class():
    lba, ckd = (each(removed("nc.random", attack=name)) for name in ("lba", "ckd"))
    return f"The trigger of a drawn class (`nc.random`) removed {lba} % of LBA, and {ckd} % of CKD."


@claim("defenses-of-the-field")
def who_is_flagged():
    nc, blend = (
        [flagged_target(name, attack) for attack in ("lba", "ckd")] for name in ("nc", "nc.blend")
    )
    return (
        f"The target had the smallest trigger in {nc[0]} runs of LBA and {nc[1]} of CKD. With "
        f"blended triggers these are {blend[0]} and {blend[1]}."
    )


@claim("defenses-of-the-field")
def who_is_flagged_without_a_backdoor():
    nc, blend = (flagged_target(name, "badnets.sham") for name in ("nc", "nc.blend"))
    return (
        f"That is no detection: students of clean teachers have it in {nc} runs, and with blended "
        f"triggers in {blend}."
    )


@claim("defenses-of-the-field")
def false_alarms():
    clean = rows(SIGNS, attack="badnets.sham", defense=("nc.index", "ulrl"))
    alarms = {
        name: times(r["flagged_classes"] != "none" for r in clean if r["defense"] == name)
        for name in ("nc.index", "ulrl")
    }
    return (
        f"In students of clean teachers, `nc.index` flagged a class in {alarms['nc.index']} runs, "
        f"and ULRL in {alarms['ulrl']}."
    )
