"""Loading plugins: built-ins by the same door as strangers, and a broken one harms nobody else."""

from importlib.metadata import EntryPoint

import pytest

from kdbench.errors import PluginConflictError
from kdbench.registry import Registry, source_digest

BROKEN = {
    "missing": "import nothing_of_that_name",
    "exits": "raise SystemExit(3)",
    "syntax": "def (",
    "misspelt": "from kdbench.hookspecs import hookimpl\n@hookimpl\ndef kdbench_atacks():\n    return []",
    "abstract": (
        "from kdbench.hookspecs import hookimpl\nfrom kdbench.attack import Attack\nfrom kdbench.method import Info\n"
        "class Foo(Attack):\n    info = Info('foo', 't', 'a', 'v', 2020, 'http://x')\n    def implnt(self, s): ...\n"
        "@hookimpl\ndef kdbench_attacks():\n    return [Foo]"
    ),
    "path": (
        "from kdbench.hookspecs import hookimpl\nfrom kdbench_badnets.method import BadNets\nfrom kdbench.method import Info\n"
        "class Foo(BadNets):\n    info = Info('../foo', 't', 'a', 'v', 2020, 'http://x')\n"
        "@hookimpl\ndef kdbench_attacks():\n    return [Foo]"
    ),
    "notaclass": "from kdbench.hookspecs import hookimpl\n@hookimpl\ndef kdbench_attacks():\n    return [42]",
}


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, text):
        (tmp_path / f"plug_{name}.py").write_text(text)
        return EntryPoint(name, f"plug_{name}", "kdbench")

    return write


def test_the_methods_of_the_mission_are_there(registry):
    assert set(registry.names("attack")) >= {"badnets", "ckd", "htba", "lba"}
    assert set(registry.names("distiller")) >= {"fkd", "kd"}
    assert set(registry.names("defense")) >= {"nad", "none", "robustkd"}


def test_broken_plugins_are_named_and_the_others_still_load(plugin):
    points = [plugin(name, text) for name, text in BROKEN.items()]
    good = "import kdbench_badnets\nfrom kdbench_badnets import *\nkdbench_attacks = kdbench_badnets.kdbench_attacks"
    found = Registry.load([*points, plugin("good", good)])
    assert set(found.broken) == set(BROKEN)
    assert found.names("attack") == ["badnets"]
    assert "ModuleNotFoundError" in found.broken["missing"]
    assert "SystemExit" in found.broken["exits"]
    assert "kdbench_atacks" in found.broken["misspelt"]
    assert "does not define implant" in found.broken["abstract"]
    assert "../foo" in found.broken["path"]


def test_two_plugins_with_one_method_name_both_of_them(plugin):
    good = "import kdbench_badnets\nkdbench_attacks = kdbench_badnets.kdbench_attacks"
    with pytest.raises(PluginConflictError, match=r"'a'.*'b'"):
        Registry.load([plugin("a", good), plugin("b", good)])


def test_every_builtin_is_documented(registry):
    for kind, methods in registry.methods.items():
        for name, found in methods.items():
            info = found.cls.info
            assert info.title, name
            assert info.link.startswith("http"), (kind, name)
            for field, spec in found.cls.Params.model_fields.items():
                assert spec.description, f"{kind}.{name}.{field} has no description"
            for preset in found.cls.presets:
                assert preset in ("quick", "standard", "paper")
                found.cls.Params(**found.cls.presets[preset])


def test_the_source_digest_changes_with_the_source_alone(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "plug_digest"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "method.py").write_text("a = 1")
    import plug_digest

    before = source_digest(plug_digest)
    (package / "notes.txt").write_text("not code")
    assert source_digest(plug_digest) == before
    (package / "method.py").write_text("a = 2")
    assert source_digest(plug_digest) != before
