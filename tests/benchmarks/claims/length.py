"""What the page on RobustKD after long trainings states."""

from math import ceil

from tests.benchmarks.claims.common import claim, each, value

FOLDER = "gtsrb-at-length"
#: Settings of RobustKD with its learned offset, each with the distiller.
SETTINGS = (
    ("robustkd.paper", "fkd"),
    ("robustkd", "fkd"),
    ("robustkd.eq15", "fkd"),
    ("robustkd.batchbn", "fkd"),
    ("robustkd.rate", "fkd"),
    ("robustkd.rate30", "fkd"),
    ("robustkd.m100", "fkd"),
    ("robustkd", "fkd.evalbn"),
    ("robustkd.m100", "fkd.evalbn"),
)
#: Percent. The question is whether a setting removes more than this.
HALF = 50
RATES = ("robustkd", "robustkd.rate", "robustkd.rate30")


def number(name, defense, distiller="fkd"):
    return value(FOLDER, name, attack="ckd", defense=defense, distiller=distiller)


@claim("robustkd-at-length", index=True)
def more_than_half():
    removed = [number("removed", *setting) for setting in SETTINGS]
    count = sum(part is not None and part > HALF for part in removed)
    return f"{count} of {len(SETTINGS)} settings removed more than half of CKD."


@claim("robustkd-at-length")
def paper():
    return f"At the paper's numbers RobustKD removed {number('removed', 'robustkd.paper'):.0f} %."


@claim("robustkd-at-length")
def rates():
    left = each(number("student_asr", defense) for defense in RATES)
    return f"At rates of 0.02, 0.1 and 0.3 the student has an ASR of {left} %."


@claim("robustkd-at-length")
def rates_without_trigger():
    acc, variance = (
        each((number(f"cleansed_{name}", defense) for defense in RATES), digits)
        for name, digits in (("acc", 1), ("variance", 2))
    )
    return f"Their teachers have {acc} % ACC and a variance of {variance}."


@claim("robustkd-at-length")
def backdoored_teacher():
    return (
        f"The backdoored teacher itself has {number('teacher_acc', 'none'):.1f} % and "
        f"{number('teacher_variance', 'none'):.2f}."
    )


@claim("robustkd-at-length")
def rate_random():
    left, acc = (number(name, "robustkd.raterandom") for name in ("student_asr", "cleansed_acc"))
    return (
        f"The offset of the rate of 0.1 at random places (C5) leaves {left:.0f} %, though it does "
        f"more harm to the teacher ({acc:.0f} % ACC)."
    )


@claim("robustkd-at-length")
def stored():
    before, after, shuffled = (
        number("student_asr", defense, "fkd.evalbn")
        for defense in ("none", "robustkd", "robustkd.random")
    )
    return (
        f"Kept while distilling, they leave {after:.0f} % with RobustKD, {shuffled:.0f} % with its "
        f"offset at random places, and {before:.0f} % without a defense."
    )


@claim("robustkd-at-length")
def stored_costs():
    lost = number("acc_lost", "robustkd", "fkd.evalbn")
    return f"RobustKD costs {lost:.1f} points of ACC there."


@claim("robustkd-at-length")
def handed_on():
    kept = [number("cleansed_asr", *s) for s in SETTINGS if s[0] != "robustkd.batchbn"]
    return (
        f"{len(kept)} of {len(SETTINGS)} teachers that RobustKD hands on still obey the trigger in "
        f"more than {ceil(min(kept)) - 1} % of the cases."
    )


@claim("robustkd-at-length")
def weak():
    return (
        "Weaker guidance without a defense (C6) leaves "
        f"{number('student_asr', 'none', 'fkd.weak'):.0f} %."
    )


@claim("robustkd-at-length")
def others():
    names = ("finetune", "nad", "fineprune", "anp")
    return (
        "Fine-tuning, NAD, fine-pruning and ANP removed "
        f"{each(number('removed', name) for name in names)} %."
    )


@claim("robustkd-at-length")
def worth():
    return f"Distillation is worth {number('gain', 'none'):.1f} points of ACC here."
