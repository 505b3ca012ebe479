"""Who has the lock of a stage."""

from __future__ import annotations

import os
from pathlib import Path

import filelock
import pytest

from kdbench.bench.store.artefacts import Store
from kdbench.bench.store.locks import holder


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="the kernel has no /proc/locks")
def test_the_process_that_computes_a_stage_is_known(tmp_path):
    store = Store(tmp_path)
    assert store.lock_holder("ab") is None
    lock = store.lock("ab")
    assert store.lock_holder("ab") == os.getpid()
    assert store.lock_holder("cd") is None
    lock.release()
    assert store.lock_holder("ab") is None


def test_the_kernels_list_is_read_with_care(tmp_path):
    path, locks = tmp_path / "a.lock", tmp_path / "locks"
    with filelock.FileLock(path):
        facts = path.stat()
        place = f"{os.major(facts.st_dev):02x}:{os.minor(facts.st_dev):02x}:{facts.st_ino}"
        elsewhere = f"{os.major(facts.st_dev):02x}:{os.minor(facts.st_dev):02x}:1"
        locks.write_text(
            f"1: FLOCK  ADVISORY  WRITE 11 {elsewhere} 0 EOF\n"
            "nonsense\n"
            f"2: POSIX  ADVISORY  WRITE 12 {place} 0 EOF\n"
            f"3: FLOCK  ADVISORY  WRITE 0 {place} 0 EOF\n"
            f"4: FLOCK  ADVISORY  WRITE 13 {place} 0 EOF\n"
        )
        assert holder(path, locks) == 13
        assert holder(path, tmp_path / "none") is None
        assert holder(tmp_path / "none.lock", locks) is None
