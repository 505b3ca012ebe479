"""Other spellings of a network's name: with a tag of timm, by the hub, or by an old name."""

from __future__ import annotations

import re

from kdbench._libraries import LIBRARIES

_HUB = re.compile(r"(?:timm/)?hf[-_]hub:(?P<owner>[\w.-]+)/(?P<name>[\w.-]+)(?P<at>@.*)?")


def library_names(library: str) -> list[str]:
    """The classification models of a library, as it spells them."""
    if library == "timm":
        import timm

        return timm.list_models()
    from torchvision import models

    return models.list_models(module=models)


def plain_name(name: str) -> tuple[str, str]:
    """(the name that kdbench uses, what to say of that). A name of no library stays as it is.

    ``timm/resnet50.a1_in1k`` is ``timm/resnet50``: its tag names weights, and networks start from
    fresh ones here.
    """
    if hub := _HUB.fullmatch(name):
        if hub["at"]:
            return f"hf:{hub['owner']}/{hub['name']}{hub['at']}", ""
        # The repositories of timm are called by the network and its tag.
        if hub["owner"] == "timm":
            return _without_tag(name, "timm", hub["name"])
        return name, ""
    library, slash, rest = name.partition("/")
    if not slash or library not in LIBRARIES:
        return name, ""
    return _without_tag(name, library, rest)


def _without_tag(name: str, library: str, rest: str) -> tuple[str, str]:
    names = library_names(library)
    if rest in names and name == f"{library}/{rest}":
        return name, ""
    for short, why in ((rest.partition(".")[0], "the tag"), (_new_name(library, rest), "the name")):
        if short in names:
            return f"{library}/{short}", (
                f"{name} is {library}/{short} here: {why} stands for weights, which are not "
                "loaded (they come in by kdbench import-teacher)"
            )
    return name, ""


def _new_name(library: str, name: str) -> str:
    """What a library calls a network today that it once called ``name``."""
    if library != "timm":
        return ""
    from timm.models import get_deprecated_models

    return str(get_deprecated_models().get(name, "")).partition(".")[0]
