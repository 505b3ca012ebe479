"""What to do with a file whose names are not those of the network: who put them there, and the one
line of Python that mends the file.

The line is for the user, who runs it outside kdbench. It reads tensors and plain values only. It
says ``'FILE'``, which the parent replaces by the name of the file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from kdbench.untrusted.header import shown
from kdbench.untrusted.weights.commands import FILE, TARGET, command
from kdbench.untrusted.weights.names import BODY, Expected, Naming, copies
from kdbench.untrusted.weights.tables import Table, bare

#: Pattern of the end of a name -> whose it is, and what to do.
_OWNERS = {
    r"(^|\.)parametrizations\.": (
        "torch.nn.utils.parametrize (a weight or spectral norm) splits weights",
        "call torch.nn.utils.parametrize.remove_parametrizations on its modules and save again",
    ),
    r"_mask$": (
        "torch.nn.utils.prune splits weights into weight_orig and weight_mask",
        "call torch.nn.utils.prune.remove on the pruned modules and save again",
    ),
    r"weight_u$": (
        "torch.nn.utils.spectral_norm splits weights",
        "call torch.nn.utils.remove_spectral_norm on its modules and save again",
    ),
    r"weight_[gv]$": (
        "torch.nn.utils.weight_norm splits weights",
        "call torch.nn.utils.remove_weight_norm on its modules and save again",
    ),
    r"(^|\.)lora_|(^|\.)base_layer\.": (
        "they are of an adapter (LoRA)",
        "merge it into the network (merge_and_unload) and save again",
    ),
    r"(_packed_params\w*|(^|[._])scale|zero_point|quant_map|absmax|SCB|qweight|qzeros)$|observer|"
    r"activation_post_process|fake_quant": (
        "the network is quantised, or prepared for that",
        "save the network as it was before",
    ),
    r"(relative_position_index|attn_mask|position_ids|relative_coords_table)$": (
        "they are tables that another version of the library kept",
        "leave them out",
    ),
}
_NORMALIZATION = re.compile(r"(^|[._])(mean|std)$")


def line(kind: str, keys: Collection[str], expression: str) -> str:
    """A command that makes a file of ``expression``, where ``c`` is the table at ``keys``."""
    if kind == "safetensors":
        return command(
            f"from safetensors.torch import load_file, save_file; c = load_file({FILE}); "
            f"save_file({expression}, '{TARGET}.safetensors')"
        )
    place = "".join(f"[{key!r}]" for key in keys)
    return command(
        f"import torch; c = torch.load({FILE}, map_location='cpu', weights_only=True){place}; "
        f"torch.save({expression}, '{TARGET}.pth')"
    )


def explain(table: Table, expected: Expected, kind: str) -> str:
    """Why the names of a table are not those of the network, and what to do."""
    naming = table.naming
    prefixes = copies(naming.names, expected)
    if len(prefixes) > 1:
        return _several(table, prefixes, kind)
    text = _differences(naming)
    owner = _owner(naming.extra, table)
    if prefixes and (beside := _beside(naming, prefixes[0], expected)):
        behind = f" behind {shown(prefixes[0])}" if prefixes[0] else ""
        whose = f"; {owner[0]}: {owner[1]}" if owner else ""
        how = line(kind, table.keys, _only(prefixes[0], beside))
        return (
            f"all names of the network are there{behind}, and {some(beside, 'more')}{whose}; if "
            f"--model is the right one and they are no part of it, leave them out: {how}"
        )
    if owner:
        return f"{text}; {owner[0]}: {owner[1]}"
    return text + (_rename(table, expected, kind) or "; is --model the right one?")


def _several(table: Table, prefixes: list[str], kind: str) -> str:
    behind = " and ".join(shown(prefix) if prefix else "no prefix" for prefix in prefixes[:3])
    how = line(kind, table.keys, _only(prefixes[0], [name for name in prefixes if name]))
    return f"it holds the network {len(prefixes)} times, behind {behind}; keep one of them: {how}"


def _beside(naming: Naming, prefix: str, expected: Expected) -> list[str]:
    """The names that stand beside the whole network. Empty where some are inside of it."""
    network = {name.removeprefix(BODY) for name in expected}
    firsts = {name.partition(".")[0] for name in network}
    beside = []
    for name in naming.names:
        inside = name.startswith(prefix)
        short = name.removeprefix(prefix).removeprefix(BODY)
        if inside and short in network:
            continue
        if inside and (prefix or short.partition(".")[0] in firsts):
            return []
        beside.append(name)
    return beside


def _only(prefix: str, beside: Collection[str]) -> str:
    """The expression for what stands behind a prefix, or is not beside the network."""
    if prefix:
        behind = f"k.startswith({prefix!r})"
        return f"{{k.removeprefix({prefix!r}): v for k, v in c.items() if {behind}}}"
    firsts = tuple(dict.fromkeys(f"{name.partition('.')[0]}." for name in beside))
    return f"{{k: v for k, v in c.items() if not f'{{k}}.'.startswith({firsts!r})}}"


def _rename(table: Table, expected: Expected, kind: str) -> str:
    """What to say where the shapes of the unknown are those of the missing. Empty: they are not."""
    pairs = _renamed(table, expected)
    if not pairs:
        return ""
    words = " and ".join(f"{shown(old)} for {shown(new)}" for old, new in list(pairs.items())[:2])
    short = {old: new.removeprefix(BODY) for old, new in pairs.items()}
    off = [*(prefix for prefix in table.naming.prefixes if prefix != BODY), *table.naming.words]
    if len(off) > 1:
        return f"; the shapes are those of {words}: rename them and save again"
    rest = f"k.removeprefix({off[0]!r})" if off else "k"
    how = line(kind, table.keys, f"{{{short!r}.get(k, {rest}): v for k, v in c.items()}}")
    return f"; the shapes are those of {words}, so they may be renamed: {how}"


def _differences(naming: Naming) -> str:
    parts = [
        some(listed, word)
        for word, listed in (("missing", naming.missing), ("unknown", naming.extra))
        if listed
    ]
    off = [*(p for p in naming.prefixes if p != BODY), *naming.words]
    without = f" without {', '.join(map(shown, off))}" if off and len(naming.missing) < 9 else ""
    return f"its names{without} are not those of the network: {', '.join(parts)}"


def some(names: Collection[str], word: str) -> str:
    """How many names there are, and the first two of them."""
    return f"{len(names)} {word} ({', '.join(map(shown, list(names)[:2]))})"


def _owner(names: Collection[str], table: Table) -> tuple[str, str] | None:
    """Whose names these are, and what to do, where that is known of one of them."""
    for pattern, owner in _OWNERS.items():
        if any(re.search(pattern, name) for name in names):
            return owner
    constants = [name for name in names if _NORMALIZATION.search(name)]
    if constants and all(bare(table.tensors[name]).numel() in (1, 3) for name in constants):
        return (
            "it normalises images itself, by a mean and std of its own",
            "say them when you import it, and leave them out of the file",
        )
    return None


def _renamed(table: Table, expected: Expected) -> Mapping[str, str]:
    """Unknown names -> missing names, where their shapes fit one to one. Empty: they do not."""
    missing, extra = table.naming.missing, table.naming.extra
    if not 0 < len(missing) == len(extra) <= 4:
        return {}
    by_shape = {expected[name][0]: name for name in missing}
    shapes = [tuple(bare(table.tensors[name]).shape) for name in extra]
    if len(by_shape) < len(missing) or set(shapes) != set(by_shape):
        return {}
    return {name: by_shape[shape] for name, shape in zip(extra, shapes, strict=True)}
