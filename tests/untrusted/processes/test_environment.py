"""What a process that runs code of a plugin gets of the environment."""

import pytest

from kdbench.untrusted.processes.environment import allowed_environment


@pytest.mark.parametrize(
    "name",
    [
        *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "KDBENCH_STORE", "USER"),
        # A service of NVIDIA and one for feature flags share a prefix with what computes.
        *("NVIDIA_API_KEY", "LD_SDK_KEY", "LC_SESSION", "TORCH_HUB_TOKEN", "RAY_AUTH_TOKEN", "PWD"),
    ],
)
def test_no_secret_and_no_place_is_among_it(name, monkeypatch):
    monkeypatch.setenv(name, "secret")
    assert "secret" not in allowed_environment().values()


@pytest.mark.parametrize(
    "name",
    [
        *("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "NVIDIA_VISIBLE_DEVICES"),
        *("KMP_AFFINITY", "PYTORCH_CUDA_ALLOC_CONF", "LC_ALL"),
    ],
)
def test_what_computes_is_among_it(name, monkeypatch):
    monkeypatch.setenv(name, "3")
    assert allowed_environment()[name] == "3"
