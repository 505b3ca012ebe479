"""The same request measures the same numbers as when it was recorded, bit for bit.

A change of layout, names or prose must change no number. This test runs a whole tiny matrix and
compares every measured column with ``same_numbers.json``. The run uses arithmetic that does not
depend on the processor: no vector extensions, one thread, fp32. A machine whose arithmetic is still
another one is recognised by a small computation of its own (``fingerprint``) and skips.

A change that is meant to alter numbers records them anew, and says so in the changelog:

    python tests/test_same_numbers.py
"""

from __future__ import annotations

import csv
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

RECORD = Path(__file__).with_name("same_numbers.json")

#: Keeps torch, oneDNN and MKL from choosing instructions by the processor.
PLAIN = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "OMP_NUM_THREADS": "1",
}

REQUEST = shlex.split("""
    run --attack lba --defense none --defense robustkd --defense nad --pair wrn10_1-wrn10_1
    --threads 1 --numerics fp32 --device cpu --image-size 16 --num-classes 4
    --train-size 200 --test-size 120 --set clean.epochs=3 --set poison.epochs=2
    --set distill.epochs=3 --set repair.epochs=1 --set min_teacher_acc=0
""")

#: Tell one row from another.
NAMES = ("attack", "defense", "distiller", "teacher", "student", "seed")

#: Trained with operations of torch alone: their outcome is a fact of the machine and of torch.
FINGERPRINT = """
import hashlib, torch
from torch import nn
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
images = torch.rand(16, 3, 16, 16, generator=generator).to(memory_format=torch.channels_last)
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
                    nn.Conv2d(8, 16, 3, stride=2), nn.Flatten(), nn.Linear(784, 4))
net = net.to(memory_format=torch.channels_last)
optimizer = torch.optim.Adam(net.parameters())
for _ in range(5):
    optimizer.zero_grad()
    nn.functional.cross_entropy(net(images), torch.arange(16) % 4).backward()
    optimizer.step()
weights = torch.cat([p.detach().flatten() for p in net.parameters()])
print(torch.__version__.split("+")[0], hashlib.sha256(weights.numpy().tobytes()).hexdigest())
"""


def fingerprint() -> str:
    done = subprocess.run(
        [sys.executable, "-c", FINGERPRINT],
        env=os.environ | PLAIN,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def measured(folder: Path) -> list[dict[str, str]]:
    """The rows of a fresh run, by column, as results.csv has them."""
    command = [sys.executable, "-m", "kdbench", *REQUEST, "--out", str(folder / "run")]
    environment = os.environ | PLAIN | {"KDBENCH_STORE": str(folder / "store")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with (folder / "run" / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def is_measured(name: str, value: str) -> bool:
    """Numbers of networks: rates, counts, variances, transfer; no times and no digests."""
    parts = name.split("_")
    rates = bool({"acc", "asr", "ra", "base", "variance"} & set(parts))
    return bool(value) and (rates or parts[0] in ("transferred", "removed"))


def test_the_same_request_measures_the_same_numbers(tmp_path):
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    if (here := fingerprint()) != record["fingerprint"]:
        pytest.skip(f"recorded with other arithmetic: {record['fingerprint']}, here {here}")
    rows = {tuple(row[name] for name in NAMES): row for row in measured(tmp_path)}
    assert len(rows) == len(record["rows"])
    for recorded in record["rows"]:
        row = rows[tuple(recorded[name] for name in NAMES)]
        assert {name: row.get(name) for name in recorded} == recorded


def write() -> None:
    """Record the numbers of today."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            {name: row[name] for name in row if name in NAMES or is_measured(name, row[name])}
            for row in measured(Path(folder))
        ]
    record = {"fingerprint": fingerprint(), "request": " ".join(REQUEST), "rows": rows}
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
