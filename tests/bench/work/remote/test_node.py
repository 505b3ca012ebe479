"""Which machines of a cluster may take part."""

from __future__ import annotations

import pytest

from kdbench.bench.work.remote.node import NodeFacts, differences, facts_here, wall_gap, wall_here
from tests.bench.work.remote.fakes import facts

HERE = NodeFacts.from_json(facts(host="here"))


def found(mixed=False, **changes):
    there = NodeFacts.from_json(facts(**changes))
    return differences(HERE, there, {"lba": "digest"}, mixed=mixed)


def test_the_same_code_on_the_same_processor_may():
    assert found() == []
    assert found(host="another name", plugins={"lba": "digest", "more": "x"}) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"code": {"kdbench": "2"}}, "kdbench 1 here, 2 there"),
        ({"code": {}}, "kdbench 1 here, none there"),
        ({"plugins": {}}, "it lacks the plugin lba"),
        ({"plugins": {"lba": "other"}}, "its plugin lba has other code"),
        ({"processor": "AVX512"}, "it computes with AVX512, and this machine AVX2"),
        ({"card": "H100"}, "it has the card H100, and this machine none"),
    ],
)
def test_any_other_may_not(changes, reason):
    assert found(**changes) == [reason]


def test_another_processor_may_where_it_is_wanted():
    assert found(mixed=True, processor="AVX512", card="H100") == []
    assert found(mixed=True, code={"kdbench": "2"}) != []


@pytest.mark.parametrize(
    ("wall", "reached", "gap"),
    [
        ("namespaces, seccomp", [], ""),
        ("landlock 7, seccomp", ["stat", "processes"], ""),
        ("landlock 7", ["stat", "unix socket", "tcp"], "its wall leaves open: unix socket, tcp"),
        ("none", [], "it has no wall around plugins"),
    ],
)
def test_a_wall_has_to_keep_jobs_from_the_sockets_of_the_cluster(wall, reached, gap):
    assert wall_gap(NodeFacts.from_json(facts(wall=wall, reached=reached))) == gap


def test_this_machine_may_compute_for_itself(zygote):
    here = facts_here("cpu", wall_here(zygote, devices=False))
    again = NodeFacts.from_json(here.as_json())
    assert again == here
    assert differences(here, again, here.plugins, mixed=False) == []
    assert {"Python", "kdbench", "code", "torch"} <= set(here.code)
    assert {"lba", "robustkd"} <= set(here.plugins)
    assert not any("/" in version for version in here.code.values())
    assert here.wall != "none"
