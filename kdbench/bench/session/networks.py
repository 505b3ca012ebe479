"""What is told of the networks of a request."""

from __future__ import annotations

from collections.abc import Iterable

from kdbench.bench.session.tell import Tell
from kdbench.untrusted.text import strip_control


def spelled(name: str, tell: Tell) -> str:
    """The network's name as kdbench spells it. A message says so where that differs."""
    from kdbench.models import plain_name
    from kdbench.untrusted.weights import hub

    name, note = plain_name(name)
    if note:
        tell(strip_control(note))
    if not name.startswith(hub.PREFIX):
        return name
    model = hub.architecture(name)
    tell(
        f"{name} is {model}; it is trained from fresh weights (its own come in by kdbench "
        "import-teacher)"
    )
    return model


def tell_notes(notes: Iterable[str], tell: Tell) -> None:
    """Tell what makes no sense in the groups of the networks."""
    for note in notes:
        tell(strip_control(f"note: {note}; `kdbench list models NAME` shows the groups"))
