"""What the pages on open choices state."""

from tests.benchmarks.claims.common import claim, each, span, value
from tests.benchmarks.pages import rows

# open-choices and strong-masks


def choice(defense, name="student_asr", seed=1):
    return value(
        "gtsrb-choices",
        name,
        attack="ckd",
        distiller="fkd",
        seed=seed,
        defense=defense if defense == "none" else f"robustkd{defense}",
    )


@claim("open-choices", index=True)
def choices_matter():
    cells = rows("gtsrb-choices", attack="ckd", distiller="fkd", seed=1)
    left = [
        row["student_asr"]
        for row in cells
        if row["defense"].startswith("robustkd") and "random" not in row["defense"]
    ]
    return f"At one seed RobustKD leaves between {span(left, word='and')} % of CKD"


@claim("open-choices")
def what_robustkd_needs():
    return (
        f"RobustKD needs a trained p (fixed: {choice('.pfixed'):.1f} % are left), both losses "
        f"({choice('.ce'):.1f} and {choice('.var'):.1f} %) and the earlier layers "
        f"({choice('.last'):.1f} %). Variance alone also costs {choice('.var', 'acc_lost'):.1f} "
        "points of ACC."
    )


@claim("open-choices")
def what_hardly_matters():
    bounds = [choice(name) for name in ("", ".eq15", ".clamp", ".scalar")]
    variance = [choice(name) for name in ("", ".example", ".batch", ".spatial")]
    return (
        f"hardly matter: {span(bounds, 1)} % are left. The variance matters more: "
        f"{span(variance, 1)} %."
    )


@claim("open-choices")
def larger_masks():
    left = [choice(name) for name in (".m10", "", ".m50", ".m100")]
    return f"The larger `m_max` is, the less is left: {each(left, 1)} %."


@claim("open-choices")
def released_triggers():
    teacher = value("gtsrb-choices", "teacher_asr", attack="ckd.release")
    noise = value("gtsrb-choices", "transferred", attack="lba.release")
    return (
        f"CKD's reaches {teacher:.1f} % in the teacher. LBA's released noise moved {noise:.0f} "
        "points."
    )


@claim("open-choices")
def labels_and_ties():
    true, changed = (
        value("gtsrb-choices", "transferred", attack=a) for a in ("lba.coupled", "lba")
    )
    tied = value("gtsrb-choices", "student_asr", attack="ckd.tied")
    return (
        f"with true labels {true:.1f} instead of {changed:.1f} points travel. Tying CKD's neurons "
        "makes it "
        f"travel less ({tied:.1f} % instead of {choice('none'):.1f} %)."
    )


@claim("open-choices")
def distillers():
    kd, at = (value("gtsrb-choices", "student_asr", distiller=d) for d in ("kd", "at"))
    assert at == 0
    return (
        f"Less travels through logits (KD, {kd:.1f} %) than through features (FKD, "
        f"{choice('none'):.1f} %)."
    )


@claim("strong-masks", index=True)
def strong_masks():
    learned, random = (
        " and ".join(f"{choice(name, seed=s):.1f}" for s in (1, 2))
        for name in (".m100", ".m100random")
    )
    return (
        f"with `m_max` 1 RobustKD left {learned} %. But most of that is not what it learned: the "
        "same "
        f"offset at random places left {random} %."
    )


@claim("strong-masks")
def strong_by_seed():
    one, two = (each([choice(n, seed=s) for n in ("", ".m50", ".m100")], 1) for s in (1, 2))
    none = " and ".join(f"{choice('none', seed=s):.1f}" for s in (1, 2))
    return f"{one} % at seed 1, and {two} % at seed 2. Undefended students have {none} %."


@claim("strong-masks")
def strong_cost():
    cost = max(choice(".m100", "acc_lost", seed) for seed in (1, 2))
    random = " and ".join(f"{choice('.m100random', 'acc_lost', s):.1f}" for s in (1, 2))
    return f"costs at most {cost:.1f} points of ACC. The random offset costs {random} points."
