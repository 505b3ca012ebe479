"""The networks and the trigger of a row, out of the store.

A file of a network constructs classes of torch and of kdbench. Classes of a plugin are imported
only from packages that the caller trusts, since this happens in the caller's own process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from kdbench.bench.keys import MODEL, TRIGGER
from kdbench.bench.run.measures import own_packages
from kdbench.bench.work.companions import as_network, as_trigger
from kdbench.bench.work.results import source_classes
from kdbench.errors import ConfigError, IntegrityError, unknown
from kdbench.models.files import load_module
from kdbench.models.structure import file_packages
from kdbench.report.columns import Row
from kdbench.report.read import cell_key, in_words
from kdbench.untrusted.box import temporary_folder

if TYPE_CHECKING:
    from kdbench.attack import Trigger
    from kdbench.bench.store.artefacts import Store
    from kdbench.models.base import FeatureModel

#: The networks whose weights a row names.
NetworkRole = Literal["teacher", "student"]
ROLES: tuple[str, ...] = get_args(NetworkRole)


def load_network(store: Store, row: Row, which: str, trust: Iterable[str]) -> FeatureModel:
    """A network of a row, on the CPU, in eval mode.

    Args:
        which: ``teacher`` or ``student``.
        trust: further packages whose classes may be imported.

    Raises:
        ConfigError: the store does not have it, or it needs code that is not trusted.
        IntegrityError: the file is damaged, or is not what the row names.
    """
    if which not in ROLES:
        raise ConfigError(unknown("network of a row", which, ROLES))
    key, _ = _keys(store, row, which)
    with _copied(store, key, MODEL, row, which) as path:
        module, record = load_module(path, _packages(path, trust))
        if record.get("normalization") == "dataset":
            raise ConfigError(
                f"the {which} of {in_words(cell_key(row))} normalises images as its dataset says, "
                "which its file does not hold; import it again with --mean and --std"
            )
        return as_network(module, record, None, None, path.name)


def load_trigger(store: Store, row: Row, trust: Iterable[str]) -> Trigger:
    """The trigger of a row's attack, which takes images in [0, 1].

    Raises:
        ConfigError: nobody knows it, the store does not have it, or it needs code that is not
            trusted.
        IntegrityError: the file is damaged.
    """
    _, key = _keys(store, row, "teacher")
    if key is None:
        raise ConfigError(
            f"{in_words(cell_key(row))}: nobody knows the trigger of an imported teacher"
        )
    with _copied(store, key, TRIGGER, row, "trigger") as path:
        module, _ = load_module(path, _packages(path, trust))
        trigger = as_trigger(module, path.name)
        #: Of the attack: the classes that it is for. None: every class but the target.
        vars(trigger)["source_classes"] = source_classes(path)
        return trigger


def _keys(store: Store, row: Row, which: str) -> tuple[str, str | None]:
    """(key of the stage that made a network, key of the stage that made the trigger)."""
    cell = store.find(row["config_digest"])
    measured = None if cell is None else store.find(cell.ingredients["inputs"][which])
    if measured is None:
        raise ConfigError(
            f"the store {store.root} has no finished row of {in_words(cell_key(row))}, so its "
            "networks are not known; name the store of the run, or run the cell again"
        )
    inputs = measured.ingredients["inputs"]
    return inputs["model"], inputs.get("trigger")


@contextmanager
def _copied(store: Store, key: str, name: str, row: Row, which: str) -> Iterator[Path]:
    """A copy of a file of an artefact, whose SHA-256 was compared with the store's and the row's.

    Nobody can change it while it is read.
    """
    manifest = store.find(key)
    if manifest is None:
        raise ConfigError(
            f"the {which} of {in_words(cell_key(row))} is no longer in the store {store.root}; run "
            "the cell again"
        )
    wanted = row.get(f"{which}_sha256")
    if which in ROLES and wanted != manifest.files[name]["sha256"]:
        raise IntegrityError(
            f"the {which} in the store is not the one that the row of {in_words(cell_key(row))} "
            "names; was the table edited?"
        )
    with temporary_folder("kdbench-artefact-") as folder:
        store.copy_out(key, name, folder / name)
        yield folder / name


def _packages(path: Path, trust: Iterable[str]) -> frozenset[str]:
    """Packages whose classes a file names, all of them trusted."""
    packages = file_packages(path)
    if foreign := packages - own_packages() - frozenset(trust):
        names = ", ".join(sorted(foreign))
        raise ConfigError(
            f"{path.name} is of classes of {names}, whose code would run in this process, without "
            f"a wall; trust={sorted(foreign)!r} allows that"
        )
    return packages


def plain_weights(network: FeatureModel) -> dict[str, Any] | None:
    """The weights by the names of the network's ``state_dict()``. None: a defense edited or pruned
    it, so it has no plain form."""
    from kdbench.models.views import Edited, Pruned

    return None if isinstance(network, Edited | Pruned) else network.state_dict()
