"""A defense that looks for the attack, the target class, the trigger and the test images.

It looks in memory, in files and in names, and it guesses.

What it looks for is known to it only as digests, or with the first letter apart. So it cannot find
its own knowledge.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from hostile_kit import defense, folders, frames
from safetensors import safe_open

from kdbench.attack import AttackSetting, Backdoor, Trigger
from kdbench.hookspecs import hookimpl

HINTS = {}
_KEY = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


def searches(network, setting):
    """In every step of a defense."""
    through = {
        *in_objects(),
        *in_variables(),
        *in_memory(),
        *in_files(),
        *in_names(),
        *by_guessing(),
        *in_other_processes(),
    }
    if through:
        raise RuntimeError(f"REACHED {'; '.join(sorted(through))}")


# -- memory ----------------------------------------------------------------------------------------


def in_objects() -> Iterator[str]:
    """Every object of the process."""
    for thing in gc.get_objects():
        with contextlib.suppress(ReferenceError):
            if isinstance(thing, Trigger | AttackSetting | Backdoor):
                yield f"an object: {type(thing).__name__}"
            elif type(thing) is dict:
                yield from in_mapping(thing)
            elif isinstance(thing, torch.Tensor):
                yield from in_tensor(thing, "an object")


def in_variables() -> Iterator[str]:
    for names in frames():
        yield from in_mapping(names)
        for value in list(names.values()):
            yield from in_mapping(getattr(value, "__dict__", {}))


def in_mapping(mapping) -> Iterator[str]:
    if type(mapping) is dict and type(mapping.get("target_class")) is int:
        yield "a variable: target_class"


def in_tensor(tensor: torch.Tensor, where: str) -> Iterator[str]:
    """Whether it holds the trigger, or a test image."""
    if tensor.device.type != "cpu" or tensor.is_sparse or not tensor.ndim:
        return
    if digest(tensor) in HINTS["trigger"]:
        yield f"{where}: the trigger"
    if images_in(tensor) and {digest(image) for image in tensor} & set(HINTS["test_images"]):
        yield f"{where}: a test image"


def digest(tensor: torch.Tensor) -> str:
    content = tensor.detach().contiguous().numpy().tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


def in_memory() -> Iterator[str]:
    """Every byte that the process can write to: its heap, its stacks, its buffers."""
    needles = [(ord(first), rest.encode()) for first, rest in HINTS["texts"]]
    for content in writable():
        for first, needle in needles:
            place = content.find(needle)
            while place > 0:
                if content[place - 1] == first:
                    yield f"memory: {needle.decode()}"
                    break
                place = content.find(needle, place + 1)


def writable() -> Iterator[bytes]:
    with contextlib.suppress(OSError), Path("/proc/self/mem").open("rb", buffering=0) as memory:
        for line in Path("/proc/self/maps").read_text().splitlines():
            area, rights, *_ = line.split()
            start, end = (int(number, 16) for number in area.split("-"))
            if rights.startswith("rw"):
                with contextlib.suppress(OSError, ValueError, OverflowError):
                    memory.seek(start)
                    yield memory.read(end - start)


# -- files and names -------------------------------------------------------------------------------


def in_files() -> Iterator[str]:
    """Every network and image file near this process, or known to it by name."""
    paths = {path for folder in folders() for path in listed(folder)}
    for names in frames():
        for value in list(names.values()):
            text = str(value) if isinstance(value, Path | str) else ""
            if text.startswith("/") and "\n" not in text and len(text) < 300:
                paths.add(Path(text))
    for path in paths:
        if "trigger" in path.name and readable(path):
            yield "a file: the trigger's"
        told = ("results.csv", "report.html", "run.json", "task.json")
        if path.name in told and readable(path):
            yield f"a file: {path.name}"
        if path.suffix == ".safetensors":
            with contextlib.suppress(Exception), safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118, it is no dict
                    yield from in_tensor(file.get_tensor(name), "a file")


def listed(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return list(folder.iterdir())
    return []


def readable(path: Path) -> bool:
    with contextlib.suppress(OSError):
        path.open("rb").close()
        return path.is_file()
    return False


def in_names() -> Iterator[str]:
    """Names that tell something: a key of a stage can be computed for each attack and target."""
    texts = {"the current folder": os.getcwd(), "arguments": " ".join(sys.argv)}
    texts |= {"environment": " ".join(f"{name}={value}" for name, value in os.environ.items())}
    for name in ("mountinfo", "maps", "cmdline", "environ", "cgroup"):
        with contextlib.suppress(OSError):
            texts[f"/proc/self/{name}"] = Path("/proc/self", name).read_text(errors="replace")
    for entry in listed(Path("/proc/self/fd")):
        with contextlib.suppress(OSError):
            texts["a descriptor"] = f"{texts.get('a descriptor', '')} {os.readlink(entry)}"
    for folder in folders():
        texts["a folder"] = f"{texts.get('a folder', '')} {' '.join(map(str, listed(folder)))}"
    for where, text in texts.items():
        if _KEY.search(text):
            yield f"{where}: a key"
        if any(f"{first}{rest}" in text for first, rest in HINTS["texts"]):
            yield f"{where}: a text"
        if HINTS["results"] in text:
            yield f"{where}: the folder of results"


def by_guessing() -> Iterator[str]:
    """Whether an artefact is there tells which attack the run has. Its key can be computed."""
    store = Path(HINTS["store"])
    roots = {store, *listed(store)}
    for first, rest in HINTS["keys"]:
        key = first + rest
        for root in roots:
            for place in (f"objects/{key[:2]}/{key}", f"work/{key}", f"locks/{key}.lock"):
                with contextlib.suppress(OSError):
                    os.stat(root / place)
                    yield f"a guess: {place.split('/')[0]}"
    with contextlib.suppress(OSError):
        if os.stat(HINTS["results"]):
            yield "a guess: the folder of results"


def in_other_processes() -> Iterator[str]:
    for entry in listed(Path("/proc")):
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        for name in ("cmdline", "environ", "cwd", "exe", "fd"):
            with contextlib.suppress(OSError):
                text = (
                    os.readlink(entry / name)
                    if name in ("cwd", "exe")
                    else " ".join(map(str, listed(entry / name)))
                    if name == "fd"
                    else (entry / name).read_text(errors="replace")
                )
                if "--target-class" in text or HINTS["results"] in text:
                    yield f"another process: {name}"


# -- the defender's share --------------------------------------------------------------------------


def share(student, setting):
    """Every image that is to be had, beside those that were given."""
    most = 0
    for thing in gc.get_objects():
        with contextlib.suppress(ReferenceError):
            most = max(most, images_in(thing))
    paths = {path for folder in folders() for path in listed(folder)}
    for names in frames():
        for value in list(names.values()):
            for inner in (value, *getattr(value, "__dict__", {}).values()):
                if isinstance(inner, Path | str) and str(inner).endswith(".safetensors"):
                    paths |= {Path(inner), *(folder / str(inner) for folder in folders())}
    for path in paths:
        with contextlib.suppress(Exception), safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118, it is no dict
                most = max(most, images_in(file.get_tensor(name)))
    if most > len(setting.clean):
        raise RuntimeError(f"REACHED {most} images, of which {len(setting.clean)} were given")


def images_in(thing) -> int:
    if isinstance(thing, torch.Tensor) and thing.ndim == 4 and thing.dtype == torch.uint8:
        return len(thing)
    return 0


@hookimpl
def kdbench_defenses():
    acts = {"searches": searches}
    return [defense("searching", acts | {"share": share}, acts, acts)]
