"""The door for foreign weights: good files come in unchanged, hostile ones stay out, and nobody is believed.

The quick tests take a few hostile files of each family; KDBENCH_SOAK=1 takes all of them through the command line.
"""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save, save_file

import kdbench.bench.teachers
from kdbench.cli import main
from kdbench.cli.import_teacher import _sizes
from kdbench.data import dataset_names
from kdbench.data.facts import OFFICIAL
from kdbench.errors import ConfigError, IntegrityError, KdbenchError, UnknownMethodError, UsageError
from kdbench.foreign import Foreign, door, kinds, process, read_foreign, weights
from tests.foreign.hostile import CLASSES, HOSTILE, MODEL, SIZE, good
from tests.foreign.kernel import landlock
from tests.sizes import SOAK

soak = pytest.mark.skipif(not SOAK, reason="takes minutes; set KDBENCH_SOAK=1")
_QUICK = (
    "reduce: os.system",
    "legacy: os.system",
    "opcodes: BUILD of an OrderedDict",
    "bare pickle: protocol 4, called safetensors",
    "memory: a terabyte of bytes",
    "TorchScript, called safetensors",
    "zip: a member twice",
    "safetensors: a header of 100 MB",
    "tensor: methods replaced",
    "file: a pipe",
)
_SECONDS, _MEMORY = 10, 2 << 30
"""What a hostile file may take at most: seconds and bytes, of the largest process."""


def _read(path, **options):
    return read_foreign(path, **{"model": MODEL, "num_classes": CLASSES, "image_size": SIZE} | options)


def _expected():
    return {name: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in good().items()}


def _build(name, folder):
    """A hostile file and the canary that its payload would create."""
    case = HOSTILE[name]
    path, canary = folder / f"teacher{case.suffix}", folder / "canary"
    case.build(path, canary)
    return path, canary


def _refused(name, folder, capfd):
    """Import a hostile file by the command line; answers the seconds and bytes that it took."""
    path, canary = _build(name, folder)
    command = [sys.executable, "-m", "kdbench", "import-teacher", path, "--model", MODEL, "--dataset", "cifar10"]
    started = time.monotonic()
    ran = subprocess.Popen([*command, "--store", folder / "store"])
    _, status, used = os.wait4(ran.pid, 0)
    ran.returncode = os.waitstatus_to_exitcode(status)
    took = time.monotonic() - started
    said = capfd.readouterr()
    assert ran.returncode == 4, said.err
    assert HOSTILE[name].why in said.err
    assert "weights_only=False" not in said.err
    assert said.out == ""
    assert not canary.exists()
    assert not (folder / "store").exists()
    return took, used.ru_maxrss * 1024


# -- good files ----------------------------------------------------------------------------------------------------------------


def _save_zip(path):
    torch.save(good(), path)


def _save_legacy_wrapped(path):
    wrapped = {"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in good().items()}, "best": 71.2}
    torch.save(wrapped, path, _use_new_zipfile_serialization=False)


def _save_parameters(path):
    state = {name: torch.nn.Parameter(t) if t.is_floating_point() else t for name, t in good().items()}
    torch.save(
        {"model": {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}, "optimizer": {"lr": 0.1}}, path
    )


def _save_channels_last(path):
    # What every network saves that was trained in this layout: strides in another order, and a view of a larger storage.
    state = {name: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for name, t in good().items()}
    state["fc.bias"] = torch.cat([torch.ones(7), state["fc.bias"]])[7:]
    torch.save({name: tensor for name, tensor in state.items() if "num_batches_tracked" not in name}, path)


def _save_half(path):
    save_file({name: t.half() if t.is_floating_point() else t for name, t in good().items()}, path)


@pytest.mark.parametrize(
    ("write", "facts"),
    [
        (_save_zip, {"format": "torch zip"}),
        (_save_legacy_wrapped, {"format": "torch legacy", "unwrapped": ["state_dict"], "prefixes": ["module."]}),
        (_save_parameters, {"format": "torch zip", "unwrapped": ["model"], "prefixes": ["module.", "_orig_mod."]}),
        (_save_channels_last, {"format": "torch zip", "absent_counters": 7}),
        (_save_half, {"format": "safetensors", "converted": ["float16"]}),
    ],
)
def test_good_weights_come_in_bit_by_bit(tmp_path, write, facts):
    # A suffix that fits none of them: the content decides.
    path = tmp_path / "weights.onnx"
    write(path)
    found = _read(path)
    assert found.origin == {
        "file": "weights.onnx", "bytes": path.stat().st_size, "sha256": _sha256(path), "converted": [], "unwrapped": [],
        "prefixes": [], "absent_counters": 0, "kdbench": kdbench.__version__, "torch": torch.__version__,
        "confinement": found.origin["confinement"],
    } | facts  # fmt: skip
    assert re.fullmatch(r"none|landlock [1-7]", found.origin["confinement"])
    original = good()
    assert list(found.state) == list(original)
    for name, tensor in found.state.items():
        expected = original[name].half().float() if facts.get("converted") and tensor.is_floating_point() else original[name]
        assert tensor.dtype == expected.dtype
        assert torch.equal(tensor, expected), name


def _sha256(path):
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_library_s_own_names_fit(tmp_path):
    import torchvision

    network = torchvision.models.mobilenet_v3_small(num_classes=4)
    torch.save(network.state_dict(), tmp_path / "weights")
    found = read_foreign(tmp_path / "weights", model="torchvision/mobilenet_v3_small", num_classes=4, image_size=64)
    assert found.origin["prefixes"] == ["body."]
    assert all(torch.equal(found.state[f"body.{name}"], tensor) for name, tensor in network.state_dict().items())


def test_the_caller_s_random_state_is_left_alone(tmp_path):
    _save_zip(tmp_path / "weights")
    before = torch.get_rng_state()
    _read(tmp_path / "weights")
    assert torch.equal(torch.get_rng_state(), before)


# -- hostile files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", _QUICK)
def test_a_hostile_file_is_refused(tmp_path, capfd, name):
    _, used = _refused(name, tmp_path, capfd)
    assert used <= _MEMORY


@soak
@pytest.mark.parametrize("name", HOSTILE)
def test_every_hostile_file_is_refused_in_time(tmp_path, capfd, name):
    took, used = _refused(name, tmp_path, capfd)
    with capfd.disabled():
        print(f"\n{name}: {took:.1f} s, {used / 2**20:.0f} MiB", end=" ")
    assert took <= _SECONDS
    assert used <= _MEMORY


def test_there_are_sixty_hostile_files():
    assert len(HOSTILE) >= 60
    assert set(_QUICK) <= set(HOSTILE)


def _unpickle(path):
    """What an unsuspecting user does, with a name that torch does not take for another format."""
    path = path.rename(path.with_suffix(".pth"))
    code = "import sys, torch; torch.load(sys.argv[1], weights_only=False)"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, path], capture_output=True, timeout=60)


@pytest.mark.parametrize(
    "name",
    [name if name == "reduce: os.system" else pytest.param(name, marks=soak) for name, case in HOSTILE.items() if case.runs],
)
def test_the_payloads_work(tmp_path, name):
    path, canary = _build(name, tmp_path)
    assert not canary.exists()
    _unpickle(path)
    assert canary.exists()


@soak
def test_a_killed_parent_leaves_no_reader_behind(tmp_path):
    path, _ = _build("time: keys of equal hash", tmp_path)
    command = [sys.executable, "-m", "kdbench", "import-teacher", path, "--model", MODEL, "--dataset", "cifar10"]
    parent = subprocess.Popen(
        [*command, "--time-limit", "600", "--store", tmp_path / "store"], env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    time.sleep(8)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    assert len(children) == 1
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    time.sleep(1)
    # Where nobody collects it, what is dead stays listed.
    listed = Path("/proc", children[0], "stat")
    assert not listed.exists() or listed.read_text().rpartition(")")[2].split()[0] == "Z"


# -- requests that are wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"memory_bytes": 1000}, ConfigError, "at least that"),
        ({"seconds": 0}, ConfigError, "time limit"),
        ({"seconds": float("nan")}, ConfigError, "time limit"),
        ({"expect_sha256": "12"}, ConfigError, "64 hexadecimal"),
        ({"expect_sha256": "0" * 64}, IntegrityError, "not the one expected"),
        ({"model": "wrn11_1"}, UnknownMethodError, "did you mean"),
        ({"num_classes": 11}, IntegrityError, r"'fc.weight' is of the shape \[10, 64\], where \[11, 64\]"),
    ],
)
def test_a_wrong_request_is_told_from_a_bad_file(tmp_path, options, error, says):
    _save_zip(tmp_path / "weights")
    with pytest.raises(error, match=says):
        _read(tmp_path / "weights", **options)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"cannot open .*No such file"):
        _read(tmp_path / "absent")
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    with pytest.raises(UsageError, match="cannot open"):
        _read(tmp_path / "link")


def test_a_file_larger_than_memory_is_not_copied(tmp_path):
    with (tmp_path / "weights").open("wb") as file:
        file.truncate((1 << 30) + 1)
    started = time.monotonic()
    with pytest.raises(IntegrityError, match="larger than the 1 GiB"):
        _read(tmp_path / "weights", memory_bytes=1 << 30)
    assert time.monotonic() - started < 0.5


# -- the process that reads is not believed ------------------------------------------------------------------------------------


def _play(monkeypatch, tmp_path, script):
    """Read a good file with a process that follows a script instead of kdbench's."""
    monkeypatch.setattr(process, "_CODE", script)
    _save_zip(tmp_path / "weights")
    return _read(tmp_path / "weights", seconds=1)


_PLAYED = """
import json, os, sys, time
def say(**answer):
    print(json.dumps(answer), flush=True)
sys.stdin.readline()
say(confined="landlock 7")
say(kind="torch zip")
say(ready=True)
expected = json.loads(sys.stdin.readline())
done = {{"wrappers": [], "prefixes": [], "converted": [], "absent": 0}}
"""


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("say(done=done)", "left no weights behind"),
        ("os.symlink('/etc/passwd', 'weights'); say(done=done)", "left no weights behind"),
        ("os.mkfifo('weights'); say(done=done)", "left no weights behind"),
        ("open('weights', 'wb').write(b'x' * 1000); say(done=done)", "left no weights behind"),
        ("open('weights', 'wb').truncate(1 << 40); say(done=done)", "left no weights behind"),
        ("say(done={{**done, 'wrappers': ['\\x1b[31m']}})", "answered nonsense"),
        ("say(done={{**done, 'absent': 'many'}})", "answered nonsense"),
        ("say(done=[])", "answered nonsense"),
        ("print('{{' * 100)", "failed"),
        ("print('x' * 100_000)", "failed"),
        ("say(refused='\\x1b[31m' + 'x' * 10_000)", r"imported:  \[31mx{595}$"),
        ("os.kill(os.getpid(), 11)", "signal 11"),
        ("say(memory=True)", "more than 2 GiB"),
        ("time.sleep(60)", "longer than 1 s"),
    ],
)
def test_whatever_the_reader_answers_is_checked(monkeypatch, tmp_path, script, says):
    with pytest.raises(IntegrityError, match=says):
        _play(monkeypatch, tmp_path, _PLAYED + script)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"fc.bias": None}, "1 missing"),
        ({"more": torch.zeros(1)}, "1 unknown"),
        ({"fc.bias": torch.zeros(11)}, "not asked for"),
        ({"fc.bias": torch.zeros(10).half()}, "not asked for"),
        ({"fc.bias": torch.full((10,), float("nan"))}, "NaN"),
        ({"final_norm.running_var": torch.full((64,), -1.0)}, "negative"),
    ],
)
def test_whatever_the_reader_writes_is_checked(tmp_path, change, says):
    state = {name: tensor for name, tensor in (good() | change).items() if tensor is not None}
    save_file(state, tmp_path / "weights")
    with pytest.raises(IntegrityError, match=says):
        door._read_back(tmp_path / "weights", _expected(), good())


def test_a_network_s_tables_cannot_be_replaced(tmp_path):
    # Such numbers are places in memory to the network that uses them.
    network = {"index": torch.arange(4), "x": torch.zeros(1)}
    expected = {"index": ((4,), "int64"), "x": ((1,), "float32")}
    (tmp_path / "weights").write_bytes(save({"index": torch.tensor([0, 1, 2, 10**9]), "x": torch.zeros(1)}))
    with pytest.raises(IntegrityError, match="'index' is not what the network was built with"):
        door._read_back(tmp_path / "weights", expected, network)


@pytest.mark.parametrize(
    ("script", "says"),
    [("raise SystemExit('no such library')", "no such library"), ("print(1, flush=True)", "it said nothing")],
)
def test_a_process_that_cannot_start_is_not_the_file_s_fault(monkeypatch, tmp_path, script, says):
    with pytest.raises(KdbenchError, match=says) as caught:
        _play(monkeypatch, tmp_path, script)
    assert not isinstance(caught.value, IntegrityError | UsageError)


_TAKEN_OVER = """
import os
from pathlib import Path
import kdbench.foreign.kinds
from kdbench.errors import IntegrityError
def run():
    # What the system has may be run, confined as well; not what came in or was made here.
    Path("made").write_text("#!/bin/sh\\n")
    os.chmod("made", 0o700)
    os.posix_spawn("made", ["made"], {{}})
def taken_over(path):
    assert open(path, "rb").read(2) == b"PK"
    attempts = {{
        "read": lambda: open("@/secret"), "write": lambda: open("@/canary", "w"), "list": lambda: os.listdir("@"),
        "parent": lambda: open(f"/proc/{{os.getppid()}}/environ"), "run": run,
    }}
    done = []
    for name, attempt in attempts.items():
        try:
            attempt()
            done.append(name)
        except OSError:
            pass
    raise IntegrityError(f"did {{done}} with {{sorted(os.environ)}}")
kdbench.foreign.kinds.kind_of = taken_over
main()
"""


def test_code_that_runs_in_the_reader_gets_nowhere(monkeypatch, tmp_path):
    """As if a reader had been taken over by the file, after it was confined."""
    (tmp_path / "secret").write_text("secret")
    start, _, _ = process._CODE.rpartition("main()")
    monkeypatch.setenv("KDBENCH_TOKEN", "secret")
    with pytest.raises(IntegrityError, match="was not imported: did") as caught:
        _play(monkeypatch, tmp_path, start + _TAKEN_OVER.replace("@", str(tmp_path)))
    said = str(caught.value)
    assert not re.search("HOME|USER|'PATH|TOKEN", said)
    if not landlock():
        pytest.skip("this kernel has no Landlock, so nothing else is kept from it")
    assert "did []" in said
    assert not (tmp_path / "canary").exists()


# -- parts ---------------------------------------------------------------------------------------------------------------------


def test_unwrapping_needs_one_table_of_tensors():
    state = {"a": torch.zeros(1)}
    assert weights.unwrap({"net": {"state_dict": state}, "epoch": 1}) == (state, ["net", "state_dict"])
    for loaded, says in (
        ([state], "a 'list' where"),
        ({"model": state, "net": state}, "several networks: model, net"),
        ({"model": {"model": {"model": {"model": state}}}}, "too deeply"),
        ({1: torch.zeros(1)}, "not a text"),
        ({"a": 1.0}, "'a' is a 'float'"),
        ({"other": state}, "'other' is a 'dict'"),
    ):
        with pytest.raises(IntegrityError, match=says):
            weights.unwrap(loaded)


def test_a_prefix_goes_only_where_every_name_has_it_and_the_network_has_none():
    one, expected = torch.zeros(1), {"a": ((1,), "float32"), "b": ((1,), "float32")}
    assert weights.rename({"module.a": one, "module.b": one}, expected) == ({"a": one, "b": one}, ["module."])
    mixed = {"module.a": one, "b": one}
    assert weights.rename(mixed, expected) == (mixed, [])
    own = {"module.a": ((1,), "float32")}
    assert weights.rename({"module.a": one}, own) == ({"module.a": one}, [])
    assert weights.rename({"a": one}, {"body.a": ((1,), "float32")}) == ({"body.a": one}, ["body."])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_floats_become_float32(dtype):
    state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in good().items()}
    found, converted, absent = weights.to_weights(state, _expected())
    assert (converted, absent) == ([str(dtype).removeprefix("torch.")], 0)
    assert all(torch.equal(tensor, state[name].to(tensor.dtype)) for name, tensor in found.items())


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("fc.bias", lambda t: t.to(torch.float8_e4m3fn), "is float8_e4m3fn"),
        ("fc.bias", lambda t: t.to(torch.complex64), "is complex64"),
        ("final_norm.num_batches_tracked", lambda t: t.int(), "is int32, where int64"),
        ("final_norm.num_batches_tracked", lambda t: t - 1, "negative"),
        ("fc.bias", lambda t: torch.nested.nested_tensor([t], layout=torch.jagged), "nested"),
        ("fc.bias", lambda t: torch._neg_view(t), "claims more"),
    ],
)
def test_tensors_of_another_kind_are_refused(name, change, says):
    state = good()
    state[name] = change(state[name])
    with pytest.raises(IntegrityError, match=says):
        weights.to_weights(state, _expected())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"GGUF" + bytes(100), "GGUF"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        ((2).to_bytes(8, "little") + b"{", "cut off within"),
        ((13).to_bytes(8, "little") + b'{"a":1,"a":2}', "twice"),
        ((7).to_bytes(8, "little") + b'{"a":1}', "'a' is not valid"),
        ((2).to_bytes(8, "little") + b"{}x", "do not fill"),
        ((1).to_bytes(8, "little") + b"{", "header is not valid"),
    ],
)
def test_what_is_no_checkpoint_is_told_without_torch(tmp_path, content, says):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(IntegrityError, match=says):
        kinds.kind_of(tmp_path / "file")


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]},
        {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]},
        {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0]},
        {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]},
    ],
)
def test_entries_of_a_header_are_checked(tmp_path, entry):
    header = json.dumps({"a": entry}).encode()
    (tmp_path / "file").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(IntegrityError, match="'a'"):
        kinds.kind_of(tmp_path / "file")


# -- the command ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(monkeypatch):
    """What the command handed to the store."""
    calls = []

    def save_teacher(store_root, name, state, origin, **facts):
        calls.append({"store": store_root, "name": name, "state": state, "origin": origin, **facts})
        return "key-of-it"

    monkeypatch.setattr(kdbench.bench.teachers, "save_teacher", save_teacher)
    return calls


def _call(*arguments):
    return CliRunner().invoke(main, ["import-teacher", *map(str, arguments)])


def test_the_command_imports_and_says_that_it_is_suspect(tmp_path, saved):
    path = tmp_path / "downloaded.pth"
    _save_half(path)
    answer = _call(path, "--model", MODEL, "--dataset", "cifar10", "--store", tmp_path / "store", "--sha256", _sha256(path))
    assert answer.exit_code == 0, answer.output
    (call,) = saved
    facts = {"store": tmp_path / "store", "name": "downloaded", "model": MODEL, "dataset": "cifar10"}
    assert {key: call[key] for key in facts} == facts
    assert (call["num_classes"], call["image_size"]) == (10, 32)
    assert list(call["state"]) == list(good())
    parameters = sum(t.numel() for name, t in good().items() if "running" not in name and "tracked" not in name)
    for said in (_sha256(path), "46 tensors", f"{parameters:,} parameters", "suspect", "kdbench run --teacher-from downloaded"):
        assert said in answer.output
    assert "float16 became float32" in answer.output
    assert str(tmp_path) not in answer.output


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["x.pth", "--model", MODEL], 2, "--dataset"),
        (["x.pth", "--model", MODEL, "--dataset", "cifar11"], 2, "did you mean 'cifar10'"),
        (["x.pth", "--model", MODEL, "--dataset", "signs:x"], 2, "unknown dataset"),
        (["x.pth", "--model", MODEL, "--dataset", "imagefolder:x"], 2, "--num-classes"),
        (["X y.pth", "--model", MODEL, "--dataset", "signs"], 2, "'X y' is no name"),
        (["x.pth", "--model", MODEL, "--dataset", "signs", "--name", "../x"], 2, "no name"),
        (["x.pth", "--model", MODEL, "--dataset", "signs", "--name", "x\n"], 2, "no name"),
        (["absent.pth", "--model", MODEL, "--dataset", "signs"], 2, "No such file"),
        (["x.pth", "--model", MODEL, "--dataset", "signs", "--memory", "nan"], 2, "nan"),
        (["x.pth", "--model", MODEL, "--dataset", "signs", "--i-trust-this-file"], 2, "No such option"),
    ],
)
def test_a_wrong_command_is_refused(saved, arguments, code, says):
    answer = _call(*arguments)
    assert (answer.exit_code, saved) == (code, [])
    assert says in answer.output


def test_sizes_follow_from_the_dataset():
    assert set(OFFICIAL) == set(dataset_names()) - {"imagefolder"}
    assert _sizes("gtsrb", None, None) == (43, 32)
    assert _sizes("signs", 6, 48) == (6, 48)
    assert _sizes("imagefolder:flowers", 5, None) == (5, 224)


def test_a_refusal_stores_nothing(tmp_path, saved, monkeypatch):
    def refuse(*_, **__):
        raise IntegrityError("'x' was not imported: \x1b[31mred")

    monkeypatch.setattr("kdbench.foreign.read_foreign", refuse)
    answer = _call("x.pth", "--model", MODEL, "--dataset", "signs")
    assert (answer.exit_code, saved) == (4, [])
    assert "\x1b" not in answer.output


def test_the_result_is_plain_data():
    assert set(Foreign.__annotations__) == {"state", "origin"}


def test_the_copy_is_private(tmp_path, monkeypatch):
    modes = []

    class Watched(process.Reader):
        def start(self):
            modes.append([stat.S_IMODE(Path(folder).stat().st_mode) for folder in tmp_path.glob("kdbench-*")])
            return super().start()

    monkeypatch.setattr(door, "Reader", Watched)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(IntegrityError, match="bare pickle"):
        _read(_build("bare pickle: protocol 4, called safetensors", tmp_path)[0])
    assert modes == [[0o700]]
    assert list(tmp_path.glob("kdbench-*")) == []
