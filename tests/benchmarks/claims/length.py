"""What the page on RobustKD after long trainings states."""

from math import ceil, floor

from tests.benchmarks.claims.common import claim, each, several, span, times, values

TENTH, ALL, SMALL = "gtsrb-at-length-wrn28_4", "gtsrb-at-length-wrn28_4-all", "gtsrb-at-length"
WIDE = (TENTH, ALL)
FOLDERS = (*WIDE, SMALL)
STORED, BATCH = "fkd.evalbn", "fkd"
#: Percent. The question is whether a setting removes more than this.
HALF = 50
RATES = ("robustkd", "robustkd.rate", "robustkd.rate30")


def numbers(name, defense, distiller=BATCH, folders=WIDE):
    """Those of each seed."""
    cells = several(folders, attack="ckd", defense=defense, distiller=distiller)
    return values(name, cells)


def both(say, name, defense, distiller=BATCH):
    """What ``say`` says of the numbers of a tenth of the images, and of those of all."""
    return (say(numbers(name, defense, distiller, (folder,))) for folder in WIDE)


def precise(numbers_of_seeds):
    return span(numbers_of_seeds, 1)


@claim("robustkd-at-length", index=True)
def more_than_half():
    removed = numbers("removed", "robustkd.m100", STORED)
    return (
        "With stored statistics and `m_max` 1 it removed more than half of CKD in "
        f"{times(part > HALF for part in removed)} runs of WRN-28-4 -> WRN-16-2."
    )


@claim("robustkd-at-length", index=True)
def paper():
    removed = [
        part for name in (STORED, BATCH) for part in numbers("removed", "robustkd.paper", name)
    ]
    return f"At the paper's numbers it removed at most {max(removed):.0f} % in {len(removed)} runs."


@claim("robustkd-at-length")
def strong():
    tenth, whole = both(each, "removed", "robustkd.m100", STORED)
    return f"It removed {tenth} % with a tenth of the images, and {whole} % with all."


@claim("robustkd-at-length")
def strong_costs():
    tenth, whole = both(precise, "acc_lost", "robustkd.m100", STORED)
    return f"It cost {tenth} points of ACC with a tenth of the images, and {whole} with all."


@claim("robustkd-at-length")
def strong_and_unsafe():
    removed = numbers("removed", "robustkd.m100", STORED, (TENTH,))
    return (
        "With a tenth of the images more than half of the backdoor is left in "
        f"{times(part < HALF for part in removed)} students."
    )


@claim("robustkd-at-length")
def preset():
    tenth, whole = both(each, "removed", "robustkd", STORED)
    return f"With `m_max` 0.2 and stored statistics it removed {tenth} %, and {whole} %."


@claim("robustkd-at-length")
def batch():
    return (
        "On each batch's statistics RobustKD removed "
        f"{span(numbers('removed', 'robustkd'))} % at the preset's rate, and "
        f"{span(numbers('removed', 'robustkd.rate'))} % at a rate of 0.1."
    )


@claim("robustkd-at-length")
def shuffled():
    left = numbers("student_asr", "robustkd.random", STORED)
    return (
        "The offset of `m_max` 0.2 at random places (C5) leaves "
        f"{floor(min(left))} % or more with stored statistics."
    )


@claim("robustkd-at-length")
def variance():
    # A teacher is handed on to distillers of both kinds.
    settings = (
        ("robustkd.paper", BATCH),
        ("robustkd", BATCH),
        ("robustkd.rate", BATCH),
        ("robustkd.m100", STORED),
    )
    paper, preset, rate, strong = (
        span(numbers("cleansed_variance", *setting, (TENTH,)), 2) for setting in settings
    )
    return (
        f"With a tenth of the images the teacher's variance is {paper} after the paper's numbers, "
        f"{preset} at the preset's rate, {rate} at a rate of 0.1, and {strong} with `m_max` 1."
    )


@claim("robustkd-at-length")
def handed_on():
    # One teacher is handed on to students of several distillers.
    teachers = {
        (row["results"], row["defense"], row["seed"]): row["cleansed_asr"]
        for row in several(FOLDERS)
        if row["cleansed_asr"] is not None
    }
    kept = list(teachers.values())
    obeying = [asr for asr in kept if asr > 90]
    return (
        f"{len(obeying)} of {len(kept)} teachers that RobustKD handed on still obey the trigger in "
        f"more than {ceil(min(obeying)) - 1} % of the cases."
    )


@claim("robustkd-at-length")
def small():
    weak, strong = small_removed("robustkd", "robustkd.m100")
    return (
        f"With stored statistics it removed {weak} % with `m_max` 0.2, and {strong} % with `m_max` "
        "1."
    )


@claim("robustkd-at-length")
def small_shuffled():
    weak, strong = small_removed("robustkd.random", "robustkd.m100random")
    return f"The same offsets at random places removed {weak} %, and {strong} %."


def small_removed(*defenses):
    return (each(numbers("removed", name, STORED, (SMALL,))) for name in defenses)


@claim("robustkd-at-length")
def small_paper():
    removed = each(numbers("removed", "robustkd.paper", STORED, (SMALL,)))
    return f"The paper's numbers removed {removed} % there."


@claim("robustkd-at-length")
def rates():
    by_rate = [each(numbers("student_asr", name, BATCH, (SMALL,))) for name in RATES]
    return (
        f"On each batch's statistics its students have an ASR of {by_rate[0]} % at a rate of 0.02, "
        f"{by_rate[1]} % at 0.1, and {by_rate[2]} % at 0.3."
    )


@claim("robustkd-at-length")
def weak():
    left = numbers("student_asr", "none", "fkd.weak")
    return f"Weaker guidance without a defense (C6) leaves {span(left)} %."


@claim("robustkd-at-length")
def repairs():
    tune, attention, prune = (
        span(numbers("removed", name)) for name in ("finetune", "nad", "fineprune")
    )
    return f"Fine-tuning removed {tune} %, NAD {attention} %, and fine-pruning {prune} %."


@claim("robustkd-at-length")
def anp():
    tenth, whole = both(each, "removed", "anp")
    return (
        f"ANP removed {tenth} %, and {whole} %, for {span(numbers('acc_lost', 'anp'), 1)} points."
    )


@claim("robustkd-at-length")
def worth():
    tenth, whole = both(precise, "gain", "none")
    return (
        f"Distillation is worth {tenth} points of ACC with a tenth of the images, and {whole} with "
        "all."
    )


@claim("robustkd-at-length")
def control():
    return (
        "C1 is at most "
        f"{max(row['c1_asr'] for row in several(FOLDERS)):.1f} % in all runs, and C3 at least "
        f"{floor(min(row['c3_asr'] for row in several(WIDE) if row['distiller'] != 'fkd.weak'))} % "
        "with FKD's usual weight."
    )
