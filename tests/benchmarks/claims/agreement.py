"""What the page on short and long trainings states."""

from kdbench.report.agreement import agreement
from tests.benchmarks.claims.common import claim, each, several, span, times, values
from tests.benchmarks.pages import agreement_tables, rows

SETS = (
    "quick=results/signs-quick,results/gtsrb-quick",
    "standard=results/signs-standard,results/gtsrb-at-length",
)
LONG = "long=results/signs-long"
PHOTOS = ("gtsrb-quick", "gtsrb-at-length")
LONGER = ("signs-standard", "gtsrb-at-length")


def both():
    return agreement(*map(agreement_tables.read_set, SETS))


def compared(dataset=None):
    cells = [cell for cell in both().cells if cell.is_compared]
    return [cell for cell in cells if dataset is None or dataset in cell.task]


def of_photos(name, defense):
    """The numbers of each seed, at both presets."""
    return tuple(
        each(values(name, rows(folder, attack="ckd", defense=defense, distiller="fkd")))
        for folder in PHOTOS
    )


@claim("a-quick-verdict", index=True)
def same_verdicts():
    cells = compared()
    assert {cell.long.verdict for cell in cells} == {"not stopped"}
    return (
        f"The verdict was the same in {times(cell.is_same for cell in cells)} cells, and at "
        '`standard` it was "not stopped" in all of them.'
    )


@claim("a-quick-verdict", index=True)
def same_order():
    return f"Kendall's tau of the defenses was {span(both().taus, 2)}."


@claim("a-quick-verdict")
def same_on_signs():
    return (
        f"On the drawn signs the verdict was the same in "
        f"{times(cell.is_same for cell in compared('signs'))} cells."
    )


@claim("a-quick-verdict")
def same_on_photos():
    cells = compared("gtsrb")
    undecided = times(not cell.is_same for cell in cells)
    return f"On photographs {undecided} defenses have no verdict that most seeds share at `quick`."


@claim("a-quick-verdict")
def photos_vary():
    return (
        "At `quick` the undefended student has an ASR of "
        f"{of_photos('student_asr', 'none')[0]} % there, by seed."
    )


@claim("a-quick-verdict")
def photos_robustkd():
    short, long = of_photos("removed", "robustkd")
    return f"RobustKD removed {short} % there at `quick`, and {long} % at `standard`."


@claim("a-quick-verdict")
def photos_pruning():
    short, long = of_photos("removed", "fineprune")
    return f"Fine-pruning removed {short} % at `quick`, and {long} % at `standard`."


@claim("a-quick-verdict")
def anp_first():
    orders = both().orders
    return (
        "ANP left the lowest ASR of all defenses in both presets in "
        f"{times(order.short[0] == order.long[0] == 'anp' for order in orders)} tasks."
    )


@claim("a-quick-verdict")
def anp_costs():
    lost = values("acc_lost", several(LONGER, defense="anp"))
    return f"It cost {span(lost, 1)} points of ACC in a run at `standard`."


@claim("a-quick-verdict")
def robustkd_removed():
    ours, paper = (
        span(values("removed", rows(LONGER[0], defense=name)))
        for name in ("robustkd", "robustkd.paper")
    )
    return (
        f"On the drawn signs RobustKD removed {ours} % in a run at `standard`, and at the paper's "
        f"numbers {paper} %."
    )


@claim("a-quick-verdict")
def same_at_length():
    table = agreement(*map(agreement_tables.read_set, (SETS[1], LONG)))
    cells = [cell for cell in table.cells if cell.is_compared]
    return (
        "At one seed of LBA, students of 4000 steps had the verdict of `standard` in "
        f"{times(cell.is_same for cell in cells)} cells."
    )


@claim("a-quick-verdict")
def anp_at_length():
    short, (long,) = (
        values("removed", rows(folder, attack="lba", defense="anp"))
        for folder in ("signs-standard", "signs-long")
    )
    return f"ANP removed {long:.0f} % there, and {each(short)} % at `standard`."


@claim("a-quick-verdict")
def little_removed():
    names = ("finetune", "nad")
    most = max(values("removed", several(LONGER, defense=names)))
    return f"Fine-tuning and NAD removed at most {most:.0f} % in a run at `standard`."
