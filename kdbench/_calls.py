"""How the functions of :mod:`kdbench.api` do what the commands do: keywords become a request, and
what a command would print goes to a logger."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.errors import ConfigError, UnknownMethodError, UsageError, unknown
from kdbench.method import METHOD_KINDS
from kdbench.results import Results

if TYPE_CHECKING:
    import pandas as pd

    from kdbench.bench.session.planned import Planned
    from kdbench.bench.session.processes import Processes
    from kdbench.bench.session.verification import Verification
    from kdbench.bench.store.artefacts import Store
    from kdbench.cli.watch import Display
    from kdbench.data import Dataset
    from kdbench.loading.answers import Registered
    from kdbench.loading.facts import MethodFacts
    from kdbench.report.columns import Row
    from kdbench.report.read import ResultsFile

_log = logging.getLogger("kdbench")
#: One name, or several.
Names = str | Iterable[str]
#: Keyword -> the field of a request, where they differ.
_FIELDS = {
    **{name: f"{name}s" for name in ("attack", "defense", "distiller", "pair", "dataset")},
    "preset": "presets",
    "teacher_from": "teacher_from",
}
#: Keywords of a request that are one value, and have the name of its field.
_SINGLE = (
    *("teacher", "student", "download", "image_size", "num_classes", "train_size", "test_size"),
    *("data_seed", "seed", "seeds", "target_class", "transfer_fraction", "clean_fraction"),
    *("unlabeled", "controls", "device", "numerics", "threads"),
)


def run(options: Mapping[str, Any]) -> Results:
    """See :func:`kdbench.api.run`."""
    from kdbench.bench.session import execution as session
    from kdbench.bench.session.folders import default_out
    from kdbench.bench.session.request import build_spec
    from kdbench.bench.store.artefacts import Store

    how = session.Execution(**{name: options[name] for name in vars(session.Execution())})
    how = replace(how, reporter=names(options["reporter"]))
    store_dir, out = _path(options["store"]), _path(options["out"])
    _check_executor(how, store_dir)
    with _processes(options, how.executor) as processes:
        executor = how.make_executor(processes)
        try:
            executor.warm_up()
            known, store = processes.answers(), Store(store_dir)
            spec = build_spec(known, store, tell, **_request(options))
            store.check_writable()
            folder = default_out(spec) if out is None else out
            fresh = out is None or not folder.exists()
            prepared = session.prepare_run(spec, known, folder, store, how, tell, fresh=fresh)
            session.place(executor, how.jobs, prepared.numerics, tell)
            display = _display(options["progress"])
            try:
                ended = session.carry_out(
                    prepared, known, folder, store, executor, how, display, tell
                )
            finally:
                display.close()
        finally:
            executor.close()
    if not ended.complaint:
        return Results.read([folder])
    tell(f"{ended.complaint}. All that was computed is in the store")
    return _unwritten(ended.rows)


def plan(options: Mapping[str, Any]) -> Planned:
    """See :func:`kdbench.api.plan`."""
    from kdbench.bench.session.networks import tell_notes
    from kdbench.bench.session.request import build_spec
    from kdbench.bench.store.artefacts import Store

    with _processes(options, computes=False) as processes:
        known, store = processes.answers(), Store(_path(options["store"]))
        spec = build_spec(known, store, tell, **_request(options))
        from kdbench.bench.plan.prepare import prepare
        from kdbench.bench.session.planned import Planned

        prepared = prepare(spec, known, store)
        tell_notes(prepared.notes, tell)
        return Planned.of(prepared, store, options["jobs"], tell)


def methods(options: Mapping[str, Any]) -> pd.DataFrame:
    """See :func:`kdbench.api.methods`."""
    import pandas as pd

    kind = options["kind"]
    kinds = METHOD_KINDS if kind is None else (str(kind).removesuffix("s"),)
    if not {*kinds} <= {*METHOD_KINDS}:
        raise UnknownMethodError(unknown("kind of method", str(kind), METHOD_KINDS))
    with _processes(options, computes=False) as processes:
        known = processes.catalogue
        return pd.DataFrame(
            [
                _method(kind, name, entry)
                for kind in kinds
                for name, entry in sorted(known.methods[kind].items())
            ]
        )


def _method(kind: str, name: str, entry: Registered[MethodFacts]) -> dict[str, Any]:
    facts = entry.value
    return {
        "kind": kind,
        "name": name,
        **facts.info.model_dump(exclude={"name"}),
        "variants": tuple(facts.variants),
        "parameters": {field: of.default for field, of in facts.fields.items()},
        "plugin": entry.plugin.name,
        "version": entry.plugin.version,
    }


def verify(options: Mapping[str, Any]) -> Verification:
    """See :func:`kdbench.api.verify`."""
    from kdbench.bench.plan.prepare import prepare
    from kdbench.bench.run.verify import read_request
    from kdbench.bench.session import verification as session
    from kdbench.bench.session.execution import check_executor
    from kdbench.bench.store.artefacts import Store
    from kdbench.report.read import read_results

    folder, executor, jobs = _folder(options["run"]), options["executor"], options["jobs"]
    check_executor(executor, ["jobs"] if jobs not in (None, 1) else [])
    results, store = read_results(folder), Store(_path(options["store"]))
    with _processes(options, executor) as processes:
        prepared = prepare(read_request(folder), processes.answers(), store)
        verified = session.compare_digests(
            results, prepared, processes, store, options["cells"], options["seed"]
        )
        if verified.lines:
            display = _display(options["progress"])
            try:
                verified.differences += session.compute_again(
                    results,
                    verified.lines,
                    prepared,
                    processes,
                    store,
                    executor,
                    jobs or 1,
                    display,
                    tell,
                )
            finally:
                display.close()
        return verified


def measure(options: Mapping[str, Any]) -> pd.DataFrame:
    """See :func:`kdbench.api.measure`."""
    import pandas as pd
    from torch import nn

    from kdbench.metrics import evaluate
    from kdbench.numerics import choose_numerics

    test = _dataset(options).test
    numerics = choose_numerics(options["device"], options["numerics"], options["threads"])
    # A trigger of the store knows the classes that it is for.
    sources = getattr(options["trigger"], "source_classes", None)
    rows = []
    modules = [options[name] for name in ("student", "teacher", "trigger")]
    for module in modules:
        if isinstance(module, nn.Module):
            module.eval().to(numerics.device)
    for name in ("student", "teacher"):
        if options[name] is None:
            continue
        counted = evaluate(
            options[name], options["trigger"], test, options["target_class"], numerics, sources
        )
        for metric in ("acc", "asr", "ra", "base"):
            rate = getattr(counted, metric)
            low, high = rate.interval
            values = (name, metric.upper(), rate.percent, low, high, rate.hits, rate.total)
            rows.append(values)
    columns = ["network", "metric", "percent", "low", "high", "hits", "total"]
    return pd.DataFrame(rows, columns=columns)


def _dataset(options: Mapping[str, Any]) -> Dataset:
    """The dataset that was named, with the sizes of the preset where none are given."""
    from kdbench.bench.request.presets import Preset, read_preset
    from kdbench.data import Dataset, load_dataset

    if isinstance(options["dataset"], Dataset):
        return options["dataset"]
    preset = Preset(**read_preset(options["preset"]))
    sizes = {
        name: default if options[name] is None else options[name]
        for name, default in preset.sizes_of(options["dataset"])
    }
    return load_dataset(
        options["dataset"],
        data_dir=options["data_dir"],
        download=options["download"],
        seed=options["data_seed"],
        **sizes,
    )


# -- runs and rows that exist ----------------------------------------------------------------------


def results_of(run: str | Path | Results) -> Results:
    """The rows of what a caller names."""
    return run if isinstance(run, Results) else Results.read([run])


def file_of(run: str | Path | Results) -> ResultsFile:
    """The same as one file."""
    return results_of(run).as_file()


def place_of(run: str | Path | Results, row: int, store: str | Path | None) -> tuple[Store, Row]:
    """(the store, the row) that a caller names.

    Raises:
        ConfigError: there is no such row, or it failed.
    """
    from kdbench.bench.store.artefacts import Store

    rows = results_of(run).rows
    if not -len(rows) <= row < len(rows):
        raise ConfigError(f"there is no row {row}: the run has {len(rows)}, from 0")
    if rows[row]["status"] != "ok":
        raise ConfigError(f"row {row} was not measured: {rows[row]['reason']}; name another one")
    return Store(_path(store)), rows[row]


def _folder(run: str | Path | Results) -> Path:
    """The folder of the one run that a caller names."""
    if not isinstance(run, Results):
        return Path(run)
    if len(run.paths) != 1:
        raise ConfigError(
            f"{run!r} is not one run that was read from its folder; name the folder of a run"
        )
    return run.paths[0]


# -- keywords --------------------------------------------------------------------------------------


def names(values: Names) -> tuple[str, ...]:
    """One name or several, as several.

    Raises:
        UsageError: they are no names.
    """
    several = (values,) if isinstance(values, str) or not isinstance(values, Iterable) else values
    texts = tuple(several)
    if wrong := [value for value in texts if not isinstance(value, str)]:
        raise UsageError(f"a name, or a list of names, is needed; got {wrong[0]!r}")
    return texts


def tell(line: str) -> None:
    """What a command would print beside its result."""
    _log.warning("%s", line)


def _processes(options: Mapping[str, Any], *arguments: Any, **more: Any) -> Processes:
    from kdbench.bench.session.processes import Processes
    from kdbench.loading.choice import PluginChoice

    files = options["plugin_file"]
    files = [files] if isinstance(files, str | Path) else files
    choice = PluginChoice.of(names(options["without"]), map(Path, files))
    return Processes(choice, tell, *arguments, **more)


def _request(options: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of a request, as :func:`kdbench.bench.session.request.build_spec` has them."""
    fields: dict[str, Any] = {field: names(options[name]) for name, field in _FIELDS.items()}
    fields |= {name: options[name] for name in _SINGLE}
    fields |= {name: _path(options[name]) for name in ("spec", "data_dir")}
    return fields | {"overrides": _overrides(options["set"])}


def _overrides(numbers: Mapping[str, Any] | Names) -> tuple[str, ...]:
    """What ``--set`` would say."""
    if not isinstance(numbers, Mapping):
        return names(numbers)
    return tuple(f"{key}={_word(value)}" for key, value in numbers.items())


def _word(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    try:
        # A number of numpy has a plain one as its item.
        return json.dumps(value, default=lambda number: number.item())
    except (TypeError, ValueError, AttributeError):
        raise UsageError(f"set: a number, a text or a list is needed; got {value!r}") from None


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _check_executor(how: Any, store: Path | None) -> None:
    from kdbench.bench.session import execution as session

    usual = vars(session.Execution())
    changed = [name for name, value in vars(how).items() if value != usual[name]]
    session.check_executor(how.executor, changed)
    session.check_own_store(how.executor, store is not None)


# -- what is seen of a run -------------------------------------------------------------------------


def _display(progress: bool | None) -> Display:
    """What shows how a run goes on: lines that are redrawn, plain lines, or nothing."""
    from rich.console import Console

    from kdbench.cli.watch import Display, LiveDisplay, PlainDisplay

    class Live(LiveDisplay):
        """Ends without a table, since the caller gets the results."""

        def run_finished(self, rows: list[dict[str, Any]], out: str) -> None:
            self.close()

    class Plain(PlainDisplay):
        def run_finished(self, rows: list[dict[str, Any]], out: str) -> None:
            return

    if progress is False:
        return Display()
    console = Console(highlight=False, emoji=False)
    if console.is_terminal and not console.is_dumb_terminal and not console.is_jupyter:
        return Live(console)
    return Plain() if progress or console.is_jupyter else Display()


def _unwritten(rows: list[dict[str, Any]]) -> Results:
    """The rows of a run whose folder did not take them."""
    from kdbench.report.tables import write_results
    from kdbench.untrusted.box import temporary_folder

    with temporary_folder("kdbench-results-") as folder:
        write_results(rows, folder / "results.csv")
        return Results(Results.read([folder]).rows)
