"""What each method costs, as multiples of plain training: ``python benchmarks/costs.py``.

The stages of a run on the drawn signs are computed in this process, one after the other, on one
thread. Just before and after each of them the same network is trained plainly for some steps, with
labels alone and at the same batch size. What is counted is processor time and not the clock's, so
that other work on the machine matters little. The unit of a stage is the plain training of its
network on as many images as the preset's recipe shows.

- attack: the stage that implants it, against plain training of the teacher.
- distiller: the distillation from the clean teacher, against plain training of the student.
- defense: all stages from the backdoored teacher to the student that is handed on, by FKD.

The numbers go to ``speed/costs.csv``, where a method that is measured again replaces its old ones.
The tables of docs/costs.md are written from it. ``--attack NAME`` measures this attack alone, and
so do the other two options.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
import torch
from costs_tables import PLAIN, UNDEFENDED, Cost, read_costs, replaced, write_costs
from render import COSTS_PAGE, render
from steps import training

from kdbench.bench.plan.plan import Cell, Stage
from kdbench.bench.plan.prepare import prepare
from kdbench.bench.request.spec import Block, RunSpec
from kdbench.bench.run.folders import JobFolders
from kdbench.bench.run.jobs import Jobs
from kdbench.bench.store.artefacts import Store
from kdbench.bench.work.executors.child import make_task
from kdbench.bench.work.job import Outcome
from kdbench.bench.work.stages import perform
from kdbench.capture import Pass
from kdbench.loading.registry import Registry
from kdbench.models import create_model, split_pair
from kdbench.training import Recipe, Step, cross_entropy

PAIR = "wrn16_2-wrn16_1"
#: Implants the teacher that defenses get. What they cost hardly depends on it.
ATTACK = "badnets"
#: Distils the students of defenses.
DISTILLER = "fkd"
#: What a method needs for this pair, as ``--set`` says it.
NEEDED = {"fsp": {"distiller.fsp.connector": "true"}}
#: Steps of plain training that are timed at once, after some that are not.
STEPS, WARM_UP = 20, 3


@dataclass(frozen=True)
class Spent:
    """What one stage took."""

    #: Seconds of the whole stage.
    total_s: float
    #: Images in its training loops, each as often as it is seen.
    shown: int
    #: Seconds for one of them. 0: no loop has two steps.
    image_s: float

    def against(self, plain_s: float, images: int) -> tuple[float, float, float, float]:
        """(whole, per_image, shown, outside) as :class:`Cost` has them.

        Args:
            plain_s: seconds of an image in plain training.
            images: those of the recipe.
        """
        whole, per_image = self.total_s / (plain_s * images), self.image_s / plain_s
        shown = self.shown / images
        return whole, per_image, shown, whole - per_image * shown


class Meter:
    """A progress that measures a stage. It begins when it is made.

    The first step of each loop is timed by nobody: what came before it belongs to no loop.
    """

    def __init__(self, clock: Callable[[], float] = time.process_time) -> None:
        self._clock, self._begun = clock, clock()
        self._last = self._begun
        self._shown = self._timed = 0
        self._timed_s = 0.0

    def step(self, step: Step) -> None:
        now = self._clock()
        self._shown += step.images
        if step.done > 1:
            self._timed += step.images
            self._timed_s += now - self._last
        self._last = now

    def spent(self) -> Spent:
        """What it took until now."""
        image_s = self._timed_s / self._timed if self._timed else 0.0
        return Spent(self._clock() - self._begun, self._shown, image_s)


class Bench:
    """The stages of a run in a store of their own, computed here.

    Args:
        methods: kind -> names of the methods to measure.
    """

    def __init__(
        self, folder: Path, registry: Registry, methods: dict[str, tuple[str, ...]]
    ) -> None:
        self.store, self.registry = Store(folder), registry
        also = [
            Block(attacks=(ATTACK,), distillers=methods["distiller"] or (DISTILLER,)),
            Block(attacks=(ATTACK,), defenses=(UNDEFENDED, *methods["defense"])),
        ]
        named = [name for names in methods.values() for name in names]
        spec = RunSpec(
            attacks=(ATTACK, *methods["attack"]),
            distillers=(DISTILLER,),
            pairs=(split_pair(PAIR),),
            device="cpu",
            threads=1,
            overrides={k: v for name in named for k, v in NEEDED.get(name, {}).items()},
            also=tuple(also),
        )
        self.prepared = prepare(spec, registry, self.store)
        torch.set_num_threads(self.prepared.numerics.threads)
        self.plan = self.prepared.plan
        self.folders = JobFolders(self.store)
        self.jobs = Jobs(self.prepared, registry, self.store, self.folders, 1e9, profile=False)

    def cell(self, **names: str) -> Cell:
        """The cell of some methods: attack, distiller, defense. Those left out are the usual."""
        wanted = {"attack": ATTACK, "distiller": DISTILLER, "defense": UNDEFENDED, **names}
        return next(
            cell
            for cell in self.plan.cells
            if all(cell.names[name] == value for name, value in wanted.items())
        )

    def compute(self, stage: Stage) -> Spent:
        """Compute a stage, and before it what it rests on. The result of the first time is kept."""
        for key in stage.inputs.values():
            if self.store.find(key) is None:
                self.compute(self.plan.stages[key])
        job = self.jobs.lay_out(stage)
        task = make_task(job.task)
        meter = Meter()
        perform(task, self.registry, meter, links={})
        spent = meter.spent()
        if self.store.find(stage.key) is None:
            self.jobs.publish(stage, Outcome("ok"), job.folder)
        self.folders.remove(stage.key)
        return spent

    def plain(self, network: str, batch: int) -> Callable[[], float]:
        """A function that trains a network plainly for a while. It answers the seconds an image."""
        part = self.prepared.parts[0]
        model = create_model(network, part.num_classes, image_size=part.image_size)
        model.set_normalization(part.dataset.mean, part.dataset.std)
        model = self.prepared.numerics.place(model).train()
        loss = cross_entropy(Pass(model, self.prepared.numerics).logits)
        run = training(model, loss, part.dataset, batch, self.prepared.numerics)

        def seconds() -> float:
            run(WARM_UP)
            begun = time.process_time()
            run(STEPS)
            return (time.process_time() - begun) / (STEPS * batch)

        return seconds

    def images(self, stage: Stage) -> int:
        """How many images a stage's recipe shows. The last smaller batch of an epoch is dropped."""
        recipe = Recipe(**stage.values["recipe"])
        count = self.prepared.parts[0].images_of(stage.kind.sees)
        batch = min(recipe.batch_size, count)
        return recipe.passes(count) * (count // batch) * batch

    def measure(self, kind: str, method: str, stage: Stage, unit: Stage, rounds: int) -> Cost:
        """What a stage costs.

        Args:
            unit: the stage whose network is trained plainly, at the batch size and on as many
                images as its recipe has.
        """
        for key in stage.inputs.values():
            if self.store.find(key) is None:
                self.compute(self.plan.stages[key])
        plain = self.plain(unit.networks[0], unit.values["recipe"]["batch_size"])
        results = []
        for _ in range(rounds):
            before = plain()
            spent = self.compute(stage)
            results.append(spent.against((before + plain()) / 2, self.images(unit)))
        wholes = [result[0] for result in results]
        middle = results[wholes.index(statistics.median_low(wholes))]
        today = datetime.now(UTC).date().isoformat()
        return Cost(
            kind, method, stage.kind, *middle, min(wholes), max(wholes), rounds=rounds, date=today
        )

    def stages(self, kind: str, method: str) -> Iterator[tuple[Stage, Stage]]:
        """(stage, the stage that is its unit) of each stage of a method.

        A defense that leaves the distillation alone has not that of its own.
        """
        stages = self.plan.stages
        if method == PLAIN:
            usual = self.cell().trained
            stage = stages[usual["clean" if kind == "attack" else "c2"]]
            yield stage, stage
        elif kind == "attack":
            stage = stages[self.cell(attack=method).trained["teacher"]]
            yield stage, stage
        elif kind == "distiller":
            stage = stages[self.cell(distiller=method).trained["c1"]]
            yield stage, stage
        else:
            trained = self.cell(defense=method).trained
            unit = stages[self.cell().trained["c3"]]
            own = self.plan.ancestors(trained["student"]) - self.plan.ancestors(trained["teacher"])
            own -= set() if method == UNDEFENDED else {unit.key}
            for stage in sorted((stages[key] for key in own), key=lambda stage: stage.number):
                yield stage, unit


@click.command(help=__doc__)
@click.option("--attack", "attacks", multiple=True)
@click.option("--distiller", "distillers", multiple=True)
@click.option("--defense", "defenses", multiple=True)
@click.option("--rounds", default=3, show_default=True)
def main(
    attacks: tuple[str, ...], distillers: tuple[str, ...], defenses: tuple[str, ...], rounds: int
) -> None:
    named = {"attack": attacks, "distiller": distillers, "defense": defenses}
    everything = not any(named.values())
    registry = Registry.load()
    methods = {
        kind: tuple(name for name in registry.names(kind) if name != UNDEFENDED)
        if everything
        else names
        for kind, names in named.items()
    }
    # What methods are compared with is measured once.
    first = {"attack": PLAIN, "distiller": PLAIN, "defense": UNDEFENDED}
    known = {(cost.kind, cost.method) for cost in read_costs()}
    with tempfile.TemporaryDirectory(prefix="kdbench-costs-") as folder:
        bench = Bench(Path(folder), registry, methods)
        for kind, names in methods.items():
            again = everything or (names and (kind, first[kind]) not in known)
            for method in (first[kind], *names) if again else names:
                new = []
                for stage, unit in bench.stages(kind, method):
                    cost = bench.measure(kind, method, stage, unit, rounds)
                    click.echo(f"{kind} {method}, {cost.stage}: {cost.whole:.2f} times")
                    new.append(cost)
                write_costs(replaced(read_costs(), new))
    COSTS_PAGE.write_text(render(COSTS_PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
