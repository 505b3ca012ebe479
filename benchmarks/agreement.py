"""Writes a page on whether shorter trainings say what longer ones say.

    python benchmarks/agreement.py RUN_SHORT RUN_LONG ... --page FILE

A RUN is a run's folder or a results.csv. Its rows belong to the set of their preset, and NAME=RUN
gives them a set of another name. Name the shortest trainings first. Several runs of one set, such
as those of two datasets, are put together::

    python benchmarks/agreement.py results/quick-signs results/quick-gtsrb results/standard-signs \\
        long=results/longer-signs --page findings/agreement.md

A page that exists keeps its words and gets new tables. See :mod:`agreement_tables` for them, and
:mod:`kdbench.report.agreement` for the rules. Without --page the page is printed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from agreement_tables import ASKS, BENCHMARKS
from render import render

from kdbench.errors import KdbenchError
from kdbench.report.agreement import MIN_CELLS, MISLEADS, SAME_ORDER, SAME_VERDICTS
from kdbench.report.read import read_results

_NAME = re.compile(r"[A-Za-z0-9_.+-]+")
_MARKER = re.compile(rf"(<!-- table: {ASKS}\w+).*?( -->)")
#: What stands in a comment of a page between two words, or between two runs.
_SEPARATORS = set(" ,\t\n")


def sets_in_words(runs: Sequence[str]) -> str:
    """The sets of some runs, as the comments of a page name them.

    Raises:
        KdbenchError: a run cannot be read.
        ValueError: a name or a path cannot stand in a comment.
    """
    sets: dict[str, list[str]] = {}
    for run in runs:
        for name, path in _named(run):
            sets.setdefault(name, []).append(path)
    return " ".join(f"{name}={','.join(paths)}" for name, paths in sets.items())


def _named(run: str) -> Iterator[tuple[str, str]]:
    """Every set that a run belongs to, with the run's path from this folder."""
    name, _, path = run.rpartition("=")
    if Path(run).exists():  # a path may hold the sign itself
        name, path = "", run
    if name and not _NAME.fullmatch(name):
        raise ValueError(f"{name} is no name of a set; use letters, digits, _ . + and -")
    results = read_results(path)
    place = Path(os.path.relpath(Path(path).resolve(), BENCHMARKS)).as_posix()
    if _SEPARATORS & set(place):
        raise ValueError(f"{path} has a space or a comma in its path; move it to another folder")
    for preset in dict.fromkeys(row["preset"] for row in results.rows):
        yield name or preset, place
        if name:
            return


def written(page: str, sets: str) -> str:
    """The page with the tables of some sets.

    Raises:
        KdbenchError: the runs of a set cannot be put together.
        ValueError: there are fewer than two sets.
    """
    return render(_MARKER.sub(lambda match: f"{match[1]} {sets}{match[2]}", page))


def new_page(sets: str, page: Path | None) -> str:
    """A page without tables yet, with links to the runs.

    Args:
        sets: as :func:`sets_in_words` has them.
        page: where it will be. None: in this folder.
    """
    folder = BENCHMARKS if page is None else page.resolve().parent
    places = [place for word in sets.split() for place in word.partition("=")[2].split(",")]
    runs = [(BENCHMARKS / place).resolve() for place in dict.fromkeys(places)]
    runs = [run if run.is_dir() else run.parent for run in runs]
    links = [f"[{run.name}]({os.path.relpath(run, folder)}/)" for run in runs]
    return NEW.format(results=", ".join(links))


def _table(kind: str) -> str:
    return f"<!-- table: {ASKS}{kind} -->\n<!-- end -->"


NEW = f"""# Does a short training say what a long one says?

**Claim.** What a preset says of a defense is what a longer training says.

**Does it hold?** See the first table under "What it means".

**Measured.** The sets of runs below, the one with the shortest trainings first.

{_table("sets")}

## What it means

{_table("summary")}

## How to read

- Runs are matched by dataset, attack, distiller, pair and defense. The verdict on a defense is the
  one that more than half of the seeds have.
- Only what the longer set decides is compared: stopped, partly or not stopped. Undecided: the
  shorter set has no such verdict there.
- A reader of the shorter set may conclude the verdicts where at least {SAME_VERDICTS * 100:.0f} %
  of {MIN_CELLS} or more are the same. The order of the defenses: where the mean of Kendall's tau is
  at least {SAME_ORDER}.
- It misleads about a defense where it has another verdict more often than the same one, or where
  the mean of what is removed differs by more than {MISLEADS:.0f} points.
- Kendall's tau compares the defenses by the mean ASR of the student, over the seeds at which all
  of a line were measured. 1: the same order. -1: the reverse. p: the probability of such a tau by
  chance.

## Verdicts

{_table("verdicts")}

## Defenses

What is removed is the mean over the lines below that both sets decide. By cell: the longer set
minus the shorter one, points.

{_table("defenses")}

## Order of the defenses

{_table("orders")}

## What both sets measured

Beside a verdict: how many of the judged seeds have it.

{_table("cells")}

<details><summary>Seed by seed</summary>

{_table("seeds")}

</details>

## Limits

- The sets differ in more than the length of a training. A preset has its own rates, its own size of
  the drawn signs, and its own steps of a method.
- The longest set is taken for the truth. It has not yet been repeated at standard length by a
  training that is longer still.
- The defenses of one attack and seed share a teacher. So they are not as many witnesses as they are
  verdicts.

## How to repeat it

    kdbench run --spec benchmarks/specs/agreement.toml --preset quick --jobs 2
    kdbench run --spec benchmarks/specs/agreement.toml --preset standard --jobs 2

The file names the commands for photographs, and for a longer training.

Results: {{results}}.
"""


@click.command(help=__doc__)
@click.argument("runs", nargs=-1, required=True)
@click.option("--page", type=click.Path(path_type=Path, dir_okay=False))
def main(runs: tuple[str, ...], page: Path | None) -> None:
    try:
        sets = sets_in_words(runs)
        before = (
            page.read_text(encoding="utf-8") if page and page.exists() else new_page(sets, page)
        )
        text = written(before, sets)
    except (KdbenchError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    if page is None:
        click.echo(text)
        return
    page.write_text(text, encoding="utf-8")
    click.echo(f"written: {page}")


if __name__ == "__main__":
    main()
