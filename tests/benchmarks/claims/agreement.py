"""What the page on short and long trainings states."""

from statistics import fmean

from kdbench.report.agreement import agreement, removed_by_both
from tests.benchmarks.claims.common import claim, span, times, values
from tests.benchmarks.pages import agreement_tables, rows

SETS = ("quick=results/signs-quick", "standard=results/signs-standard")
LONGER = "signs-standard"


def both():
    return agreement(*map(agreement_tables.read_set, SETS))


def compared():
    return [cell for cell in both().cells if cell.is_compared]


@claim("a-quick-verdict", index=True)
def same_verdicts():
    cells = compared()
    assert {cell.long.verdict for cell in cells} == {"not stopped"}
    return (
        f"The verdict was the same in {times(cell.is_same for cell in cells)} cells, and it was "
        '"not stopped" in all of them.'
    )


@claim("a-quick-verdict", index=True)
def same_order():
    return f"Kendall's tau of the defenses was {span(both().taus, 2)}."


@claim("a-quick-verdict")
def anp_first():
    orders = both().orders
    return (
        "ANP left the lowest ASR of all defenses in both presets in "
        f"{times(order.short[0] == order.long[0] == 'anp' for order in orders)} tasks."
    )


@claim("a-quick-verdict")
def anp_removed():
    short, long = map(fmean, zip(*removed_by_both(both().by_defense()["anp"]), strict=True))
    lost = fmean(values("acc_lost", rows(LONGER, defense="anp")))
    return (
        f"It removed {short:.0f} % at `quick` and {long:.0f} % at `standard`, and cost {lost:.1f} "
        "points of ACC there."
    )


@claim("a-quick-verdict")
def robustkd_removed():
    ours, paper = (
        span(values("removed", rows(LONGER, defense=name)))
        for name in ("robustkd", "robustkd.paper")
    )
    return (
        f"At `standard` RobustKD removed {ours} % in a run, and at the paper's numbers {paper} %."
    )


@claim("a-quick-verdict")
def little_removed():
    names = ("finetune", "nad", "fineprune")
    most = max(values("removed", rows(LONGER, defense=names)))
    return f"Fine-tuning, NAD and fine-pruning removed at most {most:.0f} % in a run at `standard`."
