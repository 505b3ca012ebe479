"""kdbench from Python: ten functions, whose names and keywords are those of the command line.

    import kdbench
    runs = kdbench.run(attack="lba", defense=["none", "robustkd"], pair="wrn16_2-wrn16_1")
    runs.table[["defense", "student_asr", "verdict"]]

Errors are those of :mod:`kdbench.errors`. What a command would print beside its result goes to the
logger ``kdbench``. docs/api.md is the guide.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdbench.errors import UsageError
from kdbench.results import Results

if TYPE_CHECKING:
    from kdbench.bench.session.processes import Processes

_log = logging.getLogger("kdbench")
#: One name, or several.
Names = str | Iterable[str]
#: Keywords of a request that are named in the plural below.
_PLURAL = {
    name: f"{name}s" for name in ("attack", "defense", "distiller", "pair", "dataset", "preset")
}


def run(
    attack: Names = (),
    defense: Names = (),
    pair: Names = (),
    *,
    spec: str | Path | None = None,
    teacher_from: Names = (),
    distiller: Names = (),
    teacher: str | None = None,
    student: str | None = None,
    dataset: Names = (),
    data_dir: str | Path | None = None,
    download: bool | None = None,
    image_size: int | None = None,
    num_classes: int | None = None,
    train_size: int | None = None,
    test_size: int | None = None,
    data_seed: int | None = None,
    preset: Names = (),
    seed: int | None = None,
    seeds: int | None = None,
    target_class: int | None = None,
    transfer_fraction: float | None = None,
    clean_fraction: float | None = None,
    controls: bool | None = None,
    device: str | None = None,
    numerics: str | None = None,
    threads: int | None = None,
    set: Mapping[str, Any] | Names = (),
    without: Names = (),
    plugin_file: str | Path | Iterable[str | Path] = (),
    out: str | Path | None = None,
    store: str | Path | None = None,
    executor: Literal["local", "inline"] = "local",
    jobs: int = 1,
    time_limit: float = 86400.0,
    stall_limit: float = 600.0,
    memory_limit: float | None = None,
    checkpoint_every: float = 60.0,
    cohort: int = 4,
    profile: bool = False,
    fail_fast: bool = False,
    progress: bool | None = None,
) -> Results:
    """Run attacks against defenses, as ``kdbench run`` does.

    What the store has is not computed again. An interrupt of the kernel ends the jobs and raises
    KeyboardInterrupt. The same call then goes on where it was. A cell that fails is a row with its
    reason, see :attr:`kdbench.results.Results.failures`.

    Args:
        attack, defense, pair, ...: one name or several. See ``kdbench run --help``. None, or no
            name: what the command takes without that option.
        set: numbers to override, ``{"clean.epochs": 2}`` or ``["clean.epochs=2"]``.
        without: plugins that are not loaded.
        plugin_file: files that are plugins. A class in a notebook's cell cannot reach the processes
            of stages, and a file can.
        progress: False shows nothing, True shows lines where nothing can be redrawn. None: as True
            in a terminal and in a notebook, else nothing.

    Returns:
        The rows of this run.

    Raises:
        UsageError: the request names what does not exist, or cannot be. Nothing was run.
        KdbenchError: another error of kdbench.
    """
    from kdbench.bench.session.execution import Execution

    asked = dict(locals())
    how = Execution(**{name: asked[name] for name in Execution.__dataclass_fields__})
    return _run(asked, how)


def load(*paths: str | Path, split: bool = False) -> Results:
    """Read the results of runs, and merge them as strictly as ``kdbench leaderboard`` does.

    Args:
        paths: folders of runs, or results.csv.
        split: take rows of one name that were made with other numbers for settings of their own,
            instead of refusing them.

    Raises:
        ConfigError: a file is no results.csv, or the files do not belong together.
    """
    if not paths:
        raise UsageError("nothing to load; name the folder of a run, or a results.csv")
    return Results.read(paths, split)


def _run(asked: Mapping[str, Any], how: Any) -> Results:
    from kdbench.bench.session import execution as session
    from kdbench.bench.session.folders import default_out
    from kdbench.bench.session.request import build_spec
    from kdbench.bench.store.artefacts import Store

    store_dir = _path(asked["store"])
    defaults = session.Execution()
    session.check_executor(
        how.executor, [name for name in vars(how) if getattr(how, name) != getattr(defaults, name)]
    )
    session.check_own_store(how.executor, store_dir is not None)
    with _processes(asked, how.executor) as processes:
        executor = how.make_executor(processes)
        try:
            executor.warm_up()
            known, store = processes.answers(), Store(store_dir)
            spec = build_spec(known, store, _tell, **_request(asked))
            store.check_writable()
            out = _path(asked["out"])
            folder = default_out(spec) if out is None else out
            fresh = out is None or not folder.exists()
            prepared = session.prepare_run(spec, known, folder, store, _tell, fresh=fresh)
            session.place(executor, how.jobs, prepared.numerics, _tell)
            display = _display(asked["progress"])
            try:
                ended = session.carry_out(prepared, known, folder, store, executor, how, display)
            finally:
                display.close()
        finally:
            executor.close()
    if ended.complaint:
        _tell(f"{ended.complaint}. All that was computed is in the store")
        return _unwritten(ended.rows)
    return Results.read([folder])


def _unwritten(rows: list[dict[str, Any]]) -> Results:
    """The rows of a run whose folder did not take them."""
    from kdbench.report.tables import write_results
    from kdbench.untrusted.box import temporary_folder

    with temporary_folder("kdbench-results-") as folder:
        write_results(rows, folder / "results.csv")
        return Results(Results.read([folder]).rows)


def _display(progress: bool | None) -> Any:
    """What shows how a run goes on."""

    from kdbench.cli.watch import Display

    return Display()


def _processes(asked: Mapping[str, Any], *arguments: Any, **options: Any) -> Processes:
    from kdbench.bench.session.processes import Processes
    from kdbench.loading.choice import PluginChoice

    files = asked["plugin_file"]
    files = [files] if isinstance(files, str | Path) else files
    choice = PluginChoice.made(_names(asked["without"]), map(Path, files))
    return Processes(choice, _tell, *arguments, **options)


def _request(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a request, as :func:`build_spec` takes them."""
    fields = {plural: _names(asked[name]) for name, plural in _PLURAL.items()}
    fields |= {"teacher_from": _names(asked["teacher_from"]), "overrides": _overrides(asked["set"])}
    fields |= {name: _path(asked[name]) for name in ("spec", "data_dir")}
    single = (
        *("teacher", "student", "download", "image_size", "num_classes", "train_size"),
        *("test_size", "data_seed", "seed", "seeds", "target_class", "transfer_fraction"),
        *("clean_fraction", "controls", "device", "numerics", "threads"),
    )
    return fields | {name: asked[name] for name in single}


def _names(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _overrides(numbers: Mapping[str, Any] | Names) -> tuple[str, ...]:
    """What ``--set`` would say."""
    if not isinstance(numbers, Mapping):
        return _names(numbers)
    return tuple(f"{key}={_word(value)}" for key, value in numbers.items())


def _word(value: Any) -> str:
    """A value as ``--set`` takes it."""
    import json

    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def _tell(line: str) -> None:
    _log.warning("%s", line)
