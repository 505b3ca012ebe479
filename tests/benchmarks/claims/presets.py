"""What is said of the presets themselves."""

from statistics import fmean, stdev

from tests.benchmarks.claims.common import claim, several, span, times, travelled, values
from tests.benchmarks.pages import rows

#: A student of the clean teacher follows a trigger that is a backdoor in this share of images at
#: most, in percent.
MOST_C1 = 10
NAMES = {"lba": "LBA", "ckd": "CKD"}
FOLDERS = ("signs-quick", "signs-quick-fp32", "signs-quick-pyramids")


def undefended(folder, attack):
    """One row a seed. Every row of a seed has the same controls."""
    seeds = {row["seed"]: row for row in rows(folder, attack=attack)}
    return [seeds[seed] for seed in sorted(seeds)]


def signal(folder, attack):
    cells = undefended(folder, attack)
    c3 = values("c3_asr", cells)
    return (
        f"{NAMES[attack]} travelled in {times(map(travelled, cells))} runs. C1 was at most "
        f"{MOST_C1} % in {times(row['c1_asr'] <= MOST_C1 for row in cells)}. C3 was "
        f"{fmean(c3):.0f} % in the mean, with a standard deviation of {stdev(c3):.0f} points."
    )


def gain(folder, attack):
    return f"{fmean(values('gain', undefended(folder, attack))):.1f}"


@claim("a-quick-signal")
def wrn_lba():
    return signal("signs-quick", "lba")


@claim("a-quick-signal")
def wrn_ckd():
    return signal("signs-quick", "ckd")


@claim("a-quick-signal")
def fp32_lba():
    return f"In fp32 {signal('signs-quick-fp32', 'lba')}"


@claim("a-quick-signal")
def fp32_ckd():
    return f"In fp32 {signal('signs-quick-fp32', 'ckd')}"


@claim("a-quick-signal")
def fp32_weakest():
    least = min(values("c3_asr", undefended("signs-quick-fp32", "ckd")))
    return f"One of these runs has {least:.0f} %."


@claim("a-quick-signal")
def pyramids():
    return f"With the deep pair {signal('signs-quick-pyramids', 'lba')}"


@claim("a-quick-signal")
def standard_lba():
    return f"At `standard` {signal('signs-standard', 'lba')}"


@claim("a-quick-signal")
def standard_ckd():
    return f"At `standard` {signal('signs-standard', 'ckd')}"


@claim("a-quick-signal")
def all_teachers():
    cells = several(FOLDERS)
    return f"The backdoored teachers have {span(values('teacher_acc', cells), 1)} % ACC."


@claim("a-quick-signal")
def worth_distilling():
    return (
        f"Distillation is worth {gain('signs-quick', 'lba')} points of ACC in the mean over LBA's "
        f"runs, {gain('signs-quick', 'ckd')} over CKD's, and "
        f"{gain('signs-quick-pyramids', 'lba')} with the deep pair."
    )


@claim("a-quick-signal", index=True)
def all_travelled():
    cells = [row for folder in FOLDERS for attack in NAMES for row in undefended(folder, attack)]
    return (
        f"At least 30 points travelled in {times(map(travelled, cells))} runs, and C1 was at most "
        f"10 % in {times(row['c1_asr'] <= MOST_C1 for row in cells)}."
    )


def removed(attack, defense):
    cells = rows("signs-quick", attack=attack, defense=defense)
    return fmean(values("removed", cells))


@claim("a-quick-signal")
def robustkd():
    lba, ckd = removed("lba", "robustkd"), removed("ckd", "robustkd")
    paper = [removed(attack, "robustkd.paper") for attack in ("lba", "ckd")]
    return (
        f"RobustKD removed {lba:z.0f} % of LBA and {ckd:z.0f} % of CKD in the mean, and at the "
        f"paper's numbers {paper[0]:z.0f} and {paper[1]:z.0f} %."
    )


@claim("a-quick-signal")
def robustkd_deep():
    cells = rows("signs-quick-pyramids", defense="robustkd")
    higher = [row["student_asr"] - row["c3_asr"] for row in cells]
    assert min(higher) > 0
    return (
        f"With the deep pair the ASR was higher with RobustKD than without it in "
        f"{times(more > 0 for more in higher)} runs, by {span(higher)} points."
    )


@claim("a-quick-signal")
def stopped():
    cells = [row for row in rows("signs-quick") if row["defense"] != "none"]
    partly = [row for row in cells if row["verdict"] == "partly"]
    assert {row["attack"] for row in partly} == {"ckd"}
    assert {row["defense"] for row in partly} == {"anp", "fineprune"}
    assert not any(row["verdict"] == "stopped" for row in cells)
    return (
        f"No defense stopped a backdoor in any of {len(cells)} cells. ANP and fine-pruning stopped "
        f"CKD partly in {len(partly)}."
    )
