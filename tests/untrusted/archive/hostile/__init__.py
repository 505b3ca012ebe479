"""Archives that must not be unpacked."""

from __future__ import annotations

from tests.untrusted.archive.hostile import tars, zip_structure, zips
from tests.untrusted.archive.hostile.case import Hostile

#: Every hostile archive.
HOSTILE: list[Hostile] = [*zips.cases(), *zip_structure.cases(), *tars.cases()]
