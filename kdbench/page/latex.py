"""A table of settings for LaTeX, with the rules of booktabs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kdbench.page.cite import tex
from kdbench.page.numbers import text
from kdbench.page.tasks import Setting, Task

_HEAD = """\
% Written by kdbench report. It needs \\usepackage{booktabs}.
% ASR and ACC are means over the seeds, in %, with 95 % intervals in brackets. Bold: the first rank,
% shared by all that tie with the best. The verdict is that of most seeds. A dash: no rank.
% pdflatex sets Latin letters. Names with others need lualatex or xelatex, and a font that has them.
"""


def latex_table(tasks: Sequence[Task]) -> str:
    """One table for each task, with its name above it where there are several."""
    several = len(tasks) > 1
    return _HEAD + "\n".join("\n".join(_table(task, several)) + "\n" for task in tasks)


def _table(task: Task, is_titled: bool) -> Iterator[str]:
    yield f"% {tex(task.title)}"
    yield r"\begin{tabular}{llrrrrl}"
    yield r"\toprule"
    if is_titled:
        yield rf"\multicolumn{{7}}{{l}}{{{tex(task.title)}}} \\"
        yield r"\midrule"
    yield r"attack & defense & rank & ASR & ACC & removed & verdict \\"
    for attack in task.attacks:
        yield r"\midrule"
        settings = [setting for setting in task.settings if setting.attack == attack]
        for place, setting in enumerate(sorted(settings, key=_place)):
            yield _line(tex(attack) if place == 0 else "", setting)
    yield r"\bottomrule"
    yield r"\end{tabular}"


def _place(setting: Setting) -> tuple[float, float]:
    rank, asr = setting.record["rank"], setting.record["student_asr"]
    return float("inf") if rank is None else rank, float("inf") if asr is None else asr


def _line(attack: str, setting: Setting) -> str:
    rank, removed = setting.record["rank"], setting.record["removed"]
    asr = _with_interval(setting, "student_asr")
    parts = [
        # Behind a rule a bracket would be its width.
        f"{{}}{attack}" if attack.startswith("[") else attack,
        tex(setting.defense),
        "--" if rank is None else str(rank),
        rf"\textbf{{{asr}}}" if rank == 1 else asr,
        _with_interval(setting, "student_acc"),
        "--" if removed is None else _number(removed, 0),
        setting.outcome,
    ]
    return f"{' & '.join(parts)} \\\\"


def _with_interval(setting: Setting, name: str) -> str:
    mean, interval = setting.mean(name), setting.interval(name)
    if mean is None:
        return "--"
    if interval is None:
        return _number(mean)
    low, high = max(0.0, interval[0]), min(100.0, interval[1])
    return f"{_number(mean)} [{_number(low)}, {_number(high)}]"


def _number(value: float, digits: int = 1) -> str:
    return text(value, digits).replace("−", "$-$")
