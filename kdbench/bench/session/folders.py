"""The folder of a run's results, before anything is computed."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.errors import ConfigError

if TYPE_CHECKING:
    from kdbench.bench.request.spec import RunSpec

#: A folder with one of these holds results, and no other request may write there.
_OUTPUTS = ("results.csv", "leaderboard.csv", "run.json")


def default_out(spec: RunSpec) -> Path:
    """Make ``runs/TIME-ATTACK-DEFENSE-PAIR``. A count stands for several attacks, defenses or
    pairs. The folder is new, even if two runs start in the same second.

    Raises:
        ConfigError: it cannot be made here.
    """

    def part(names: list[str], what: str) -> str:
        return names[0].replace("/", "_") if len(names) == 1 else f"{len(names)}{what}"

    pairs = ["-".join(pair) for pair in spec.pairs]
    attacks = [*spec.attacks, *spec.teacher_from]
    parts = [
        time.strftime("%Y%m%d-%H%M%S"),
        part(attacks, "attacks"),
        part(list(spec.defenses), "defenses"),
        part(pairs, "pairs"),
    ]
    base = Path("runs") / "-".join(parts)
    folder, number = base, 2
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            folder, number = base.with_name(f"{base.name}-{number}"), number + 1
        except OSError as error:
            raise ConfigError(
                f"{folder} cannot be made ({error.strerror or error}); name a folder with --out"
            ) from error


def check_out(folder: Path, spec: RunSpec) -> None:
    """Make the folder and write to it once, before hours are spent. A folder with results of the
    same request is taken up.

    Raises:
        ConfigError: it cannot be written to, or holds the results of another request.
    """
    from kdbench._files import read_record

    outputs = [name for name in _OUTPUTS if (folder / name).exists()]
    if outputs:
        try:
            request = read_record(folder / "run.json")["config"]["request"]
        except (OSError, ValueError, KeyError, TypeError):
            request = None
        if not _is_of(request, spec):
            raise ConfigError(
                f"--out {folder} already holds results of another request ({', '.join(outputs)}); "
                "name another folder"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"--out {folder} cannot be written to ({error.strerror or error}); name another folder"
        ) from error


def _is_of(recorded: object, spec: RunSpec) -> bool:
    """Whether a record is of this request. A field that an older kdbench did not know is open."""
    if not isinstance(recorded, dict):
        return False
    stated = spec.model_dump(mode="json", exclude_defaults=True)
    asked = spec.model_dump(mode="json").items()
    return recorded == {name: value for name, value in asked if name in recorded or name in stated}
