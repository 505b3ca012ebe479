"""What a process that runs code of a plugin gets of the environment."""

import pytest

from kdbench.untrusted.processes.environment import allowed_environment


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "KDBENCH_STORE", "USER"]
)
def test_no_secret_and_no_place_is_among_it(name, monkeypatch):
    monkeypatch.setenv(name, "secret")
    assert "secret" not in allowed_environment().values()


def test_what_computes_is_among_it(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert allowed_environment()["OMP_NUM_THREADS"] == "3"
