"""Networks and triggers as files: the structure as JSON, the numbers as safetensors. No pickle.

Any ``nn.Module`` can be kept if its plain attributes are numbers, texts, parameter models,
dataclasses, or containers of these. So a plugin needs no code to keep its edited teacher or its
trigger.

Reading imports classes of modules from torch.nn, from kdbench's networks and triggers, and from the
packages that the caller names. It imports no others, and runs no constructor of a module. Parameter
models and dataclasses are constructed, so they must be of the caller's packages. The networks of
libraries (timm, torchvision) hold functions, so they are built again by name.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import Tensor, nn

from kdbench._files import save_tensors
from kdbench.errors import ContractError, IntegrityError
from kdbench.models import blank_model
from kdbench.models.base import FeatureModel
from kdbench.models.external import ExternalModel
from kdbench.untrusted.header import Header, read_header, unique

_KEY = "kdbench"
#: What every module has: parameters, buffers, children, hooks.
_BARE = frozenset(vars(nn.Module()))
#: Packages and modules whose ``nn.Module`` classes a file may always name.
_CORE = ("torch.nn", "kdbench.models", "kdbench.triggers")


def is_core(name: str) -> bool:
    """Whether a file may always name this class (``module:Class``) as that of a module."""
    return _within(name.partition(":")[0], _CORE)


def _within(module: str, packages: Iterable[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def save_module(module: nn.Module, path: Path, record: dict[str, Any] | None = None) -> None:
    """Write a module, and a record of what else belongs to it (strict JSON), to one safetensors
    file.

    The same module gives the same bytes.

    Raises:
        ContractError: an attribute or a hook that a file cannot hold (says which).
        OSError: the disk is full.
    """
    structure, tensors = describe(module)
    save_structure(structure, tensors, path, record)


def save_structure(
    structure: dict[str, Any],
    tensors: Mapping[str, Tensor],
    path: Path,
    record: dict[str, Any] | None = None,
) -> None:
    """Write a module of which only its description is at hand, as :func:`save_module` does."""
    # Not sorted: a Sequential runs its children in this order, and sorted, child 10 would come
    # before child 2.
    held = json.dumps({"structure": structure, "record": record or {}})
    # One key only, since safetensors writes several in random order.
    save_tensors(tensors, path, {_KEY: held})


def read_structure(path: Path) -> tuple[dict[str, Any], dict[str, Any], Header]:
    """(structure, record, header) of a file, without importing or constructing what it names.

    Raises:
        IntegrityError: the file is no module of kdbench, or its header breaks a limit.
    """
    header = read_header(path)
    try:
        held = json.loads(header.texts[_KEY], object_pairs_hook=unique)
        structure, record = held["structure"], held["record"]
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise _no_module(path, error) from error
    if not isinstance(structure, dict) or not isinstance(record, dict):
        raise _no_module(path, TypeError("its structure or record is no table"))
    return structure, record, header


def load_module(path: Path, packages: Collection[str] = ()) -> tuple[nn.Module, dict[str, Any]]:
    """Read what :func:`save_module` wrote: (module, record).

    The module is on the CPU, in eval mode.

    Args:
        packages: names of the plugin packages whose classes may be imported.

    Raises:
        IntegrityError: the file is another one, or names a class of another package.
    """
    from safetensors import SafetensorError, safe_open

    structure, record, _ = read_structure(path)
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
        return _Reader(tensors, packages).node(structure, "").eval(), record
    except (SafetensorError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise _no_module(path, error) from error
    except (ImportError, RecursionError, RuntimeError) as error:
        raise _no_module(path, error) from error


def _no_module(path: Path, error: Exception) -> IntegrityError:
    return IntegrityError(
        f"{path.name} does not hold a module of kdbench: {type(error).__name__}: {error}"
    )


def describe(module: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(structure, tensors by name) of a module, as a file of it would hold them.

    Raises:
        ContractError: as :func:`save_module`.
    """
    writer = _Writer()
    return writer.node(module, ""), writer.tensors


class _Writer:
    """Describes modules as JSON and collects their tensors, each of them once."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[int, str] = {}
        self._paths: dict[int, str] = {}
        self._alive: list[Any] = []  # ids are only good while the objects live

    def node(self, module: nn.Module, path: str) -> dict[str, Any]:
        if id(module) in self._paths:
            return {"same": self._paths[id(module)]}
        self._paths[id(module)] = path
        self._alive.append(module)
        # Not a subclass: a file of it would hold the library's network and lose the subclass.
        if type(module) is ExternalModel:
            return self._external(module, path)
        where = f"{type(module).__name__}{f' at {path!r}' if path else ''}"
        if any(value for name, value in vars(module).items() if name in _BARE and "hooks" in name):
            raise ContractError(
                f"{where} has hooks, which a file cannot hold; put what they do into forward"
            )
        plain = {name: value for name, value in vars(module).items() if name not in _BARE}
        return {
            "class": _class_name(type(module)),
            "plain": {
                name: _encode(value, f"{where}.{name}") for name, value in sorted(plain.items())
            },
            "parameters": {
                name: self._tensor(value, path, name) for name, value in module._parameters.items()
            },
            "frozen": [
                name
                for name, value in module._parameters.items()
                if value is not None and not value.requires_grad
            ],
            "buffers": {
                name: self._tensor(value, path, name) for name, value in module._buffers.items()
            },
            "transient": sorted(module._non_persistent_buffers_set),
            "modules": {
                name: None if child is None else self.node(child, _join(path, name))
                for name, child in module._modules.items()
            },
        }

    def _external(self, module: ExternalModel, path: str) -> dict[str, Any]:
        fresh = _fresh(module.name, module.num_classes, module.blank_size)
        if [(n, type(m)) for n, m in module.named_modules()] != [
            (n, type(m)) for n, m in fresh.named_modules()
        ]:
            raise ContractError(
                f"{module.name} was changed in structure; a file can hold a library network only "
                "as built"
            )
        entries = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        return {
            "model": [module.name, module.num_classes, module.blank_size],
            "tensors": {name: self._tensor(value, path, name) for name, value in entries.items()},
        }

    def _tensor(self, value: Tensor | None, path: str, name: str) -> str | None:
        if value is None:
            return None
        if id(value) not in self._names:
            self._names[id(value)] = full = _join(path, name)
            self._alive.append(value)
            self.tensors[full] = value.detach().to("cpu", copy=True).contiguous()
        return self._names[id(value)]


class _Reader:
    """Makes modules from what a writer wrote. The text is not trusted."""

    def __init__(self, tensors: dict[str, Tensor], packages: Collection[str]) -> None:
        self.tensors, self.packages = tensors, packages
        self._modules: dict[str, nn.Module] = {}
        self._parameters: dict[str, nn.Parameter] = {}

    def node(self, node: dict[str, Any], path: str) -> nn.Module:
        if "same" in node:
            return self._modules[node["same"]]
        if "model" in node:
            module = self._modules[path] = _fresh(*node["model"])
            entries = {**dict(module.named_parameters()), **dict(module.named_buffers())}
            if entries.keys() != node["tensors"].keys():
                raise ValueError(f"the tensors of {node['model'][0]} are others")
            for name, tensor in node["tensors"].items():
                entries[name].detach().copy_(self.tensors[tensor])
            return module
        # A constructor may do anything, so it is not called.
        cls = self._class(node["class"], nn.Module)
        module = self._modules[path] = cls.__new__(cls)
        nn.Module.__init__(module)
        for name, value in node["plain"].items():
            if name in _BARE:
                raise ValueError(f"{name} is no plain attribute")
            vars(module)[name] = _decode(value, self._class)
        for name, tensor in node["parameters"].items():
            module.register_parameter(name, self._parameter(tensor, name not in node["frozen"]))
        for name, tensor in node["buffers"].items():
            value = None if tensor is None else self.tensors[tensor]
            module.register_buffer(name, value, persistent=name not in node["transient"])
        for name, child in node["modules"].items():
            module.add_module(name, None if child is None else self.node(child, _join(path, name)))
        return module

    def _parameter(self, name: str | None, trainable: bool) -> nn.Parameter | None:
        if name is None:
            return None
        if name not in self._parameters:
            self._parameters[name] = nn.Parameter(self.tensors[name], requires_grad=trainable)
        return self._parameters[name]

    def _class(self, name: str, base: type) -> Any:
        """A class by name. Only modules may be of kdbench: others would be constructed."""
        module, _, qualname = name.partition(":")
        allowed = (*(_CORE if base is nn.Module else ()), *self.packages)
        if not _within(module, allowed):
            raise ValueError(f"class {name} is of none of the packages {', '.join(allowed)}")
        cls: Any = importlib.import_module(module)
        for part in qualname.split("."):
            cls = getattr(cls, part)
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise ValueError(f"{name} is no subclass of {base.__name__}")
        return cls


def _fresh(name: str, num_classes: int, size: int) -> FeatureModel:
    return blank_model(name, num_classes, image_size=size)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _class_name(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _encode(value: Any, where: str) -> Any:
    """A plain attribute as JSON. What JSON cannot express becomes ``{kind: ...}``."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, BaseModel):
        return {"params": _class_name(type(value)), "values": value.model_dump(mode="json")}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            f.name: _encode(getattr(value, f.name), f"{where}.{f.name}")
            for f in dataclasses.fields(value)
        }
        return {"dataclass": _class_name(type(value)), "values": fields}
    if isinstance(value, list):
        return [_encode(v, where) for v in value]
    if isinstance(value, tuple):
        return {"tuple": [_encode(v, where) for v in value]}
    if isinstance(value, set | frozenset):
        return {
            "set" if isinstance(value, set) else "frozenset": [
                _encode(v, where) for v in sorted(value)
            ]
        }
    if isinstance(value, dict):
        return {"dict": [[_encode(k, where), _encode(v, where)] for k, v in value.items()]}
    raise ContractError(
        f"{where} is a {type(value).__name__}, which a file cannot hold; keep tensors in buffers, "
        "else numbers, texts, lists"
    )


def _decode(value: Any, find: Callable[[str, type], Any]) -> Any:
    """The inverse of :func:`_encode`. ``find`` refuses classes that may not be imported."""
    if isinstance(value, list):
        return [_decode(v, find) for v in value]
    if not isinstance(value, dict):
        return value
    if "params" in value:
        return find(value["params"], BaseModel)(**value["values"])
    if "dataclass" in value:
        cls = find(value["dataclass"], object)
        if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
            raise ValueError(f"{value['dataclass']} is no dataclass")
        return cls(**{k: _decode(v, find) for k, v in value["values"].items()})
    ((kind, inner),) = value.items()
    if kind == "dict":
        return {_decode(k, find): _decode(v, find) for k, v in inner}
    return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](
        _decode(v, find) for v in inner
    )
