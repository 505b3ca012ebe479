"""Where the wall's parts are imported from by modules that do not know the new places yet."""

from kdbench.untrusted.wall.confine import confine
from kdbench.untrusted.wall.limits import limit
from kdbench.untrusted.wall.parents import die_with_parent
from kdbench.untrusted.wall.paths import device_paths, import_paths, interpreter_paths

__all__ = (
    "confine",
    "device_paths",
    "die_with_parent",
    "import_paths",
    "interpreter_paths",
    "limit",
)
