"""What a stage may leave, as the coordinator sees it in the files."""

from __future__ import annotations

import json

import pytest
import torch
from kdbench_htba.method import PlacedPatch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from kdbench.bench.keys import MODEL, TRIGGER
from kdbench.bench.kinds import Kind
from kdbench.bench.work.results import (
    check_of,
    is_core_network,
    is_core_trigger,
    limit_bytes,
    source_classes,
)
from kdbench.errors import IntegrityError
from kdbench.models import create_model
from kdbench.models.files import save_module
from kdbench.models.named import named_facts
from kdbench.models.views import Edited, Pruned
from kdbench.triggers import PatchTrigger

FACTS = named_facts("wrn10_1", 4, 16)
HTBA = {"kdbench_htba"}


def patch():
    return PatchTrigger(torch.ones(3, 2, 2), (3, 16, 16)).eval()


def own():
    return PlacedPatch(torch.rand(3, 4, 4), (3, 16, 16)).eval()


def network():
    return create_model("wrn10_1", 4).eval()


def keep(folder, trigger, sources=None, model=None):
    save_module(model or network(), folder / MODEL)
    save_module(trigger, folder / TRIGGER, {"source_classes": sources})


def rewrite(path, change):
    with safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["kdbench"])
    change(record)
    save_file(load_file(path), path, metadata={"kdbench": json.dumps(record)})


def test_only_stages_with_a_network_are_looked_at():
    for kind in Kind:
        looked_at = check_of(kind, FACTS, ()) is not None
        assert looked_at == (MODEL in kind.files), kind
        assert limit_bytes(kind, FACTS) >= FACTS.bytes
    assert limit_bytes(Kind.PICTURE, None) < 16 << 20


def test_a_backdoor_and_its_trigger(tmp_path):
    check = check_of(Kind.BACKDOOR, FACTS, HTBA)
    keep(tmp_path, patch())
    check(tmp_path)
    keep(tmp_path, own(), [0, 2])
    check(tmp_path)
    assert source_classes(tmp_path / TRIGGER) == (0, 2)
    with pytest.raises(IntegrityError, match="'kdbench_htba', which is not the package"):
        check_of(Kind.BACKDOOR, FACTS, {"kdbench_lba"})(tmp_path)


@pytest.mark.parametrize("sources", ["0", [0.5], [True], [-1], {"0": 1}, [[0]], 3])
def test_sources_that_are_no_classes(tmp_path, sources):
    keep(tmp_path, patch(), sources)
    with pytest.raises(IntegrityError, match="source classes"):
        check_of(Kind.BACKDOOR, FACTS, HTBA)(tmp_path)


@pytest.mark.parametrize("name", ["subprocess:Popen", "os.path:join", "kdbench.cli:main"])
def test_a_trigger_of_somebody_elses_class(tmp_path, name):
    keep(tmp_path, own())
    rewrite(tmp_path / TRIGGER, lambda record: record["structure"].update({"class": name}))
    with pytest.raises(IntegrityError, match="not the package of the attack"):
        check_of(Kind.BACKDOOR, FACTS, HTBA)(tmp_path)


def test_who_may_wrap_a_network(tmp_path):
    kept = torch.ones(64)
    for kind, model, good in (
        (Kind.DISTILL, Pruned(network(), kept, "tap"), False),
        (Kind.CLEAN, Edited(network(), torch.nn.Identity()), False),
        (Kind.REPAIR, Pruned(network(), kept, "tap"), True),
        (Kind.REPAIR, Edited(network(), torch.nn.Identity()), False),
        (Kind.CLEANSE, Pruned(network(), kept, "tap"), True),
        (Kind.CLEANSE, Edited(Pruned(network(), kept, "tap"), torch.nn.Identity()), True),
    ):
        save_module(model.eval(), tmp_path / MODEL)
        if good:
            check_of(kind, FACTS, ())(tmp_path)
        else:
            with pytest.raises(IntegrityError):
                check_of(kind, FACTS, ())(tmp_path)


def test_what_runs_beside_the_labels(tmp_path):
    """Kdbench's own networks and triggers, and nothing that is more or less than one."""
    path = tmp_path / "x"
    save_module(patch(), path)
    assert is_core_trigger(path)
    for change in (
        lambda s: s["plain"].update(x=1),
        lambda s: s["modules"].update(x=None),
        lambda s: s["buffers"].update(x="mask"),
        lambda s: s["parameters"].update(x="mask"),
        lambda s: s.update({"class": "kdbench.attack:Trigger"}),
    ):
        save_module(patch(), path)
        rewrite(path, lambda record, change=change: change(record["structure"]))
        assert not is_core_trigger(path)
    save_module(own(), path)
    assert not is_core_trigger(path)
    for model, core in (
        (network(), True),
        (Pruned(network(), torch.ones(64), "tap"), True),
        (Edited(network(), torch.nn.Identity()), False),
    ):
        save_module(model.eval(), path)
        assert is_core_network(path, known=True) is core
        assert is_core_network(path, known=False) is False
