"""Runs on a real Ray cluster, which asks for a token. Processes of this machine play its machines.

One run has a store that the machines cannot see, so that all bytes travel. The other runs share
theirs with the machines.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from pathlib import Path

import pandas as pd
import pytest

import kdbench
from kdbench.bench.work.remote.tokens import choose_mode, in_mode
from kdbench.errors import UsageError
from tests.bench.work.remote.machines import (
    Machines,
    Run,
    agents,
    family,
    numbers,
    stopped,
    wait_for_job,
    wait_until_gone,
)

pytest.importorskip("ray")

TOKEN = {"RAY_AUTH_TOKEN": "a-token-that-nobody-else-has"}


@pytest.fixture(scope="module")
def whole_cluster():
    made = Machines(RAY_AUTH_MODE="token", **TOKEN)
    yield made
    made.close()


@pytest.fixture
def cluster(whole_cluster):
    """Without nodes."""
    yield whole_cluster
    for node in list(whole_cluster.nodes):
        whole_cluster.kill(node)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The numbers of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("local")
    with Run(folder).ended() as run:
        run.end()
    return numbers(folder)


def test_a_run_has_the_local_run_s_numbers_where_no_machine_sees_its_store(
    cluster, local, tmp_path
):
    cluster.add()
    with cluster.run(tmp_path, unseen=True, **TOKEN).ended() as run:
        run.end()
    assert list((tmp_path / "store").iterdir()) == [], "a machine of the cluster saw the store"
    pd.testing.assert_frame_equal(numbers(tmp_path), local)


def test_a_run_on_a_cluster_has_the_local_run_s_numbers_even_when_machines_die(
    cluster, local, tmp_path
):
    """One machine has other code of kdbench. Then the process of an agent ends, another one stands
    still for a moment, and its machine dies."""
    shutil.copytree(Path(kdbench.__file__).parent, tmp_path / "other" / "kdbench")
    (tmp_path / "other" / "kdbench" / "more.py").write_text("x = 1\n")
    cluster.add(PYTHONPATH=str(tmp_path / "other"))
    fit = [cluster.add(), cluster.add()]
    # Nobody says RAY_AUTH_MODE. Ray itself would send a token to no cluster that is named.
    with cluster.run(tmp_path / "run", "--jobs", "3", **TOKEN).ended() as run:
        run.wait_for_checkpoint()
        os.kill(agents(wait_for_job(*fit))[0], signal.SIGKILL)
        run.line_with("was lost")
        with stopped(*agents(wait_for_job(*fit))):
            time.sleep(3)
        run.line_with('"stage_finished", "number": 1,')
        assert run.text.count("was lost") == 1, "a moment costs nothing"
        cluster.kill(wait_for_job(*fit))
        text = run.end()
    assert text.count('"stage_started", "number": 1,') == 1, text
    assert text.count("cannot take part: code") == 1, text
    # On standard output, a line of JSON each. Ray would tell there of its own processes.
    assert "raylet" not in text, text
    pd.testing.assert_frame_equal(numbers(tmp_path / "run"), local)


def test_a_run_that_ends_leaves_no_process_and_goes_on_without_the_cluster(
    cluster, local, tmp_path
):
    node = cluster.add()
    # So long that it cannot end before it is interrupted.
    long = ("--set", "clean.epochs=40000")
    for end, arguments in ((_kill, ()), (_interrupt_twice, long)):
        folder = tmp_path / end.__name__
        folder.mkdir()
        with cluster.run(folder, *arguments, **TOKEN).ended() as run:
            wait_for_job(node)
            processes = family(node)
            end(run)
        wait_until_gone(processes)
        assert agents(node) == []
    with Run(tmp_path / _kill.__name__).ended() as run:
        run.end()
    pd.testing.assert_frame_equal(numbers(tmp_path / _kill.__name__), local)


def _kill(run):
    run.signal(signal.SIGKILL)
    run.end(-signal.SIGKILL)


def _interrupt_twice(run):
    run.interrupt()
    time.sleep(0.3)
    run.interrupt()
    text = run.end(130)
    assert "To go on:" in text
    assert "Traceback" not in text


@pytest.fixture
def without_token(monkeypatch, tmp_path):
    """This process knows no token."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize("given", [None, "token"])
def test_only_while_ray_connects_its_variable_is_not_the_user_s(without_token, monkeypatch, given):
    if given is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", given)
    with in_mode("disabled"):
        assert os.environ["RAY_AUTH_MODE"] == "disabled"
    assert os.environ.get("RAY_AUTH_MODE") == given


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({}, "asks for a token, and there is none here. Copy the token of its head"),
        ({"RAY_AUTH_TOKEN_PATH": "/nowhere"}, "and there is none here"),
        ({"RAY_AUTH_MODE": "token"}, "and there is none here"),
        ({"RAY_AUTH_TOKEN": "another"}, "and the one here is another. Copy"),
        ({**TOKEN, "RAY_AUTH_MODE": "disabled"}, "RAY_AUTH_MODE says that none be sent. Unset it"),
    ],
)
def test_whoever_has_not_the_token_of_a_cluster_is_told_what_to_do(
    cluster, without_token, monkeypatch, known, message
):
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=re.escape(message)):
        choose_mode(cluster.address)


@pytest.mark.parametrize("known", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "file"])
def test_a_token_is_found_wherever_ray_looks_for_it(
    cluster, without_token, monkeypatch, tmp_path, known
):
    token = TOKEN["RAY_AUTH_TOKEN"]
    if known == "RAY_AUTH_TOKEN":
        monkeypatch.setenv(known, token)
    else:
        named = known == "RAY_AUTH_TOKEN_PATH"
        path = tmp_path / ("mine" if named else ".ray/auth_token")
        path.parent.mkdir(exist_ok=True)
        path.write_text(token)
        if named:
            monkeypatch.setenv(known, str(path))
    assert choose_mode(cluster.address) == "token"


def test_a_run_without_the_token_ends_with_code_2(cluster, tmp_path):
    with cluster.run(tmp_path, RAY_AUTH_TOKEN="another").ended() as run:
        text = run.end(2)
    assert "the one here is another" in text
    assert len(text.splitlines()) == 1, "nothing of Ray's own"


def test_a_cluster_without_tokens_is_named_and_what_cannot_fit_is_refused(tmp_path):
    made = Machines()
    try:
        made.add()
        assert choose_mode(made.address) == "disabled", "it gets to see no token"
        with made.run(tmp_path, "--jobs", "2", **TOKEN).ended() as run:
            text = run.end(2)
    finally:
        made.close()
    assert text.count("this cluster lets everybody in: whoever reaches its ports") == 1
    assert "--jobs 2: the cluster has room for 1 stage side by side, 1 core each" in text
