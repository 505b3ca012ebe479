"""A catalogue of plugin files."""

from __future__ import annotations

import pytest

from kdbench.loading.catalogue import Catalogue
from kdbench.loading.choice import PluginChoice
from kdbench.loading.hosted import HostLimits
from kdbench.loading.hosts import Hosts


@pytest.fixture
def load(zygote, tmp_path):
    """Loads files of plugins, and kdbench's own, by a catalogue."""
    opened = []

    def catalogue(sources, **limits):
        files = []
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source)
            files.append(tmp_path / f"{name}.py")
        hosts = Hosts(zygote, HostLimits(**limits))
        opened.append(hosts)
        return Catalogue.load(hosts, None, PluginChoice(files=tuple(files)))

    yield catalogue
    for hosts in opened:
        hosts.close()
