"""kdbench from Python: ten functions, whose names and keywords are those of the command line.

    import kdbench
    runs = kdbench.run(attack="lba", defense=["none", "robustkd"], pair="wrn16_2-wrn16_1")
    runs.table[["defense", "student_asr", "verdict"]]

Errors are those of :mod:`kdbench.errors`. What a command would print beside its result goes to the
logger ``kdbench``. docs/api.md is the guide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdbench import _calls
from kdbench._calls import Names
from kdbench.errors import UsageError
from kdbench.results import Results

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from kdbench.attack import Trigger
    from kdbench.bench.session.planned import Planned
    from kdbench.bench.session.verification import Verification
    from kdbench.data import Dataset
    from kdbench.models.base import FeatureModel
    from kdbench.report.compared import Comparison


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
    unlabeled: float | None = None,
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
    on: str = "local",
    jobs: int | None = None,
    mixed: bool = False,
    sockets_open: bool = False,
    time_limit: float = 86400.0,
    stall_limit: float = 600.0,
    memory_limit: float | None = None,
    checkpoint_every: float = 60.0,
    cohort: int = 4,
    profile: bool = False,
    reporter: Names = (),
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
        reporter: plugins whose reporters hear how the run goes on.
        progress: False shows nothing, True shows lines where nothing can be redrawn. None: as True
            in a terminal and in a notebook, else nothing.

    Returns:
        The rows of this run.

    Raises:
        UsageError: the request names what does not exist, or cannot be. Nothing was run.
        KdbenchError: another error of kdbench.
    """
    return _calls.run(dict(locals()))


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


def plan(
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
    unlabeled: float | None = None,
    controls: bool | None = None,
    device: str | None = None,
    numerics: str | None = None,
    threads: int | None = None,
    set: Mapping[str, Any] | Names = (),
    without: Names = (),
    plugin_file: str | Path | Iterable[str | Path] = (),
    store: str | Path | None = None,
    jobs: int = 1,
) -> Planned:
    """What a request comes to, as ``kdbench plan`` shows it. Nothing is computed.

    Args:
        attack, defense, pair, ...: as for :func:`run`.
        jobs: workers to estimate the time for.

    Returns:
        Its ``table`` has the stages with their states, reasons and costs, ``summary`` the sums,
        ``hours`` the time, ``cells`` the cells, and ``toml()`` is the request as a spec file.

    Raises:
        UsageError: the request names what does not exist, or cannot be.
    """
    return _calls.plan(dict(locals()))


def methods(
    kind: str | None = None,
    *,
    without: Names = (),
    plugin_file: str | Path | Iterable[str | Path] = (),
) -> pd.DataFrame:
    """The attacks, distillers and defenses that can be run here, as ``kdbench list`` shows them.

    Args:
        kind: ``attack``, ``distiller`` or ``defense``, or the same in the plural. None: all.
        without: plugins that are not loaded.
        plugin_file: files that are plugins.

    Returns:
        One row a method: kind, name, title, authors, venue, year, link, variants, parameters (name
        -> default), plugin and its version.

    Raises:
        UnknownMethodError: there is no such kind.
    """
    return _calls.methods(dict(locals()))


def compare(a: str | Path | Results, b: str | Path | Results, *, split: bool = False) -> Comparison:
    """What changed from a to b, and whether it is noise, as ``kdbench compare`` finds it.

    Args:
        a, b: folders of runs, results.csv, or what :func:`run` and :func:`load` returned.
        split: take cells of one name that were made with other numbers for other cells, instead of
            refusing them.

    Returns:
        ``cells`` and ``over_seeds`` have what changed, ``worse`` what got worse by more than noise,
        ``causes`` what may explain it.

    Raises:
        ConfigError: the two cannot be compared, or share no cell.
    """
    from kdbench.report import compare as tables

    files = _calls.file_of(a), _calls.file_of(b)
    comparison = tables.compare(*files, split)
    tables.check_shared(comparison, *files)
    return comparison


def verify(
    run: str | Path | Results,
    *,
    cells: int = 1,
    seed: int | None = None,
    without: Names = (),
    plugin_file: str | Path | Iterable[str | Path] = (),
    store: str | Path | None = None,
    executor: Literal["local", "inline"] = "local",
    jobs: int | None = None,
    progress: bool | None = None,
) -> Verification:
    """Whether a run's table is what it says it is, as ``kdbench verify`` looks.

    It compares digests with the store, and computes some cells again from nothing.

    Args:
        run: the folder of one run, or what :func:`run` or :func:`load` returned of it.
        cells: how many random cells to compute again.
        seed: which ones. None: others each time.
        progress: as for :func:`run`.

    Returns:
        ``ok`` says whether nothing that was compared differs, ``compared`` whether anything could
        be compared here, ``differences`` what differs.

    Raises:
        ConfigError: it is not one run, or has no run.json that can be read.
    """
    return _calls.verify(dict(locals()))


def network(
    run: str | Path | Results,
    row: int,
    which: Literal["teacher", "student"] = "student",
    *,
    store: str | Path | None = None,
    trust: Names = (),
) -> FeatureModel:
    """The teacher or the student of a row, out of the store.

    It is a ``torch.nn.Module`` on the CPU, in eval mode: float images (N, 3, H, W) in [0, 1] to
    logits (N, classes). It normalises inside. The teacher is the one that the attack left.

    Args:
        run: as for :func:`compare`.
        row: its place in ``Results.table``, from 0. Negative: from the end.
        store: where it was computed. None: where commands keep things.
        trust: packages of plugins whose classes may be imported into this process, without a wall.
            kdbench's own need not be named.

    Raises:
        ConfigError: the store does not have it, or it needs code of a package that is not trusted.
        IntegrityError: the weights are damaged, or are not those that the row names.
    """
    from kdbench.bench.session.artefacts import load_network

    return load_network(*_calls.place_of(run, row, store), which, _calls.names(trust))


def trigger(
    run: str | Path | Results, row: int, *, store: str | Path | None = None, trust: Names = ()
) -> Trigger:
    """The trigger of a row's attack, out of the store.

    It takes float images (N, 3, H, W) in [0, 1] and returns them with the trigger, in [0, 1].

    Args:
        run, row, store, trust: as for :func:`network`.

    Raises:
        ConfigError: nobody knows it (an imported teacher), or as for :func:`network`.
        IntegrityError: the file is damaged.
    """
    from kdbench.bench.session.artefacts import load_trigger

    return load_trigger(*_calls.place_of(run, row, store), _calls.names(trust))


def measure(
    student: Callable[[Tensor], Tensor],
    trigger: Callable[[Tensor], Tensor],
    dataset: str | Dataset = "signs",
    teacher: Callable[[Tensor], Tensor] | None = None,
    *,
    preset: str = "quick",
    data_dir: str | Path | None = None,
    download: bool = False,
    image_size: int | None = None,
    num_classes: int | None = None,
    train_size: int | None = None,
    test_size: int | None = None,
    data_seed: int = 0,
    target_class: int = 0,
    device: str = "auto",
    numerics: str = "auto",
    threads: int | None = None,
) -> pd.DataFrame:
    """Count the hits of networks of your own on test images, without and with a trigger.

    The counts are those of a run: ACC and BASE on plain images, ASR and RA on images with the
    trigger whose class is not the target. Your code runs in this process.

    Args:
        student: float images (N, 3, H, W) in [0, 1] to logits (N, classes). A module is put into
            eval mode, and moved to the device.
        trigger: images to images with the trigger, in [0, 1].
        dataset: its name, or one that is loaded.
        teacher: measured too, in the same way.
        preset: sizes that are not given are this preset's, as in a run.
        data_dir, image_size, ...: as for :func:`run`.

    Returns:
        One row a network and metric: ``percent`` with its 95 % interval (``low``, ``high``),
        ``hits`` and ``total``.

    Raises:
        DatasetError: the dataset is not there.
        ContractError: the trigger changed the shape or left [0, 1].
        DivergedError: a network's outputs are not finite.
    """
    return _calls.measure(dict(locals()))


def export(
    run: str | Path | Results,
    row: int,
    what: Literal["teacher", "student", "trigger", "all"],
    to: str | Path,
    *,
    store: str | Path | None = None,
    trust: Names = (),
) -> Path:
    """Write a row's networks, or its trigger, to a folder that others can use.

    A network is ``WHAT/model.safetensors``, the ``state_dict()`` of the network that it names, and
    ``WHAT/config.json``. A trigger is ``trigger/trigger.safetensors``. README.md says first that
    the networks may have a backdoor. Nothing is sent anywhere.

    Args:
        run, row, store, trust: as for :func:`network`.
        to: a folder that is not there yet, or is empty.

    Returns:
        The folder.

    Raises:
        ConfigError: the folder is not empty or cannot be written, a network has no plain form, or
            as for :func:`network`.
    """
    from kdbench.bench.session.export import export_row

    return export_row(*_calls.place_of(run, row, store), what, Path(to), _calls.names(trust))
