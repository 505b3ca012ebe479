"""What is there when all goes well."""

import os
from importlib.metadata import EntryPoint

from kdbench.loading.candidates import describe, digest_of


def test_the_methods_of_the_mission_are_there(registry):
    assert set(registry.names("attack")) >= {"badnets", "ckd", "htba", "lba"}
    assert set(registry.names("distiller")) >= {"fkd", "kd"}
    assert set(registry.names("defense")) >= {"nad", "none", "robustkd"}


def test_every_builtin_is_documented(registry):
    for kind, methods in registry.methods.items():
        for name, found in methods.items():
            info = found.value.info
            assert info.title, name
            assert info.link.startswith("http"), (kind, name)
            for field, spec in found.value.Params.model_fields.items():
                assert spec.description, f"{kind}.{name}.{field} has no description"
            for preset in found.value.presets:
                assert preset in ("quick", "standard", "paper")
                found.value.Params(**found.value.presets[preset])


def test_the_source_digest_changes_with_the_source_alone(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "plug_digest"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "method.py").write_text("a = 1")
    plugin = describe(EntryPoint("plug", "plug_digest", "kdbench"))
    before = digest_of(plugin)
    (package / "notes.txt").write_text("not code")
    (package / "method.py").write_text('"""Docstring."""\n\na = 1  # comment\n')
    # An editor's lock, and what nobody can read to its end.
    (package / ".#method.py").symlink_to("user@host:1")
    os.mkfifo(package / "pipe.py")
    assert digest_of(plugin) == before
    (package / "method.py").write_text("a = 2")
    assert digest_of(plugin) != before
