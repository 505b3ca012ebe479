"""Plugins' networks and triggers answer from a process that knows nothing but images."""

from __future__ import annotations

import json
import os
import select
import struct
import sys
import time

import pytest
import torch
from kdbench_htba.method import PlacedPatch
from kdbench_robustkd.method import Detoxification, RobustKDParams

from kdbench.attack import Trigger
from kdbench.bench.work import companions
from kdbench.bench.work.companions import Link, receive, remote_network, remote_trigger
from kdbench.errors import ContractError, DivergedError
from kdbench.metrics import measure, network_of
from kdbench.models import create_model
from kdbench.models.views import Edited
from kdbench.numerics import Numerics
from tests.bench.work.companion_process import CLASSES, SIZE, companion, liar, order, thread

NUMERICS = Numerics(torch.device("cpu"), threads=1)


def network():
    torch.manual_seed(0)
    return create_model("wrn10_1", CLASSES).eval()


def edited():
    model = network()
    groups = model.features(torch.rand(1, 3, SIZE, SIZE)).groups
    starts = {i: torch.randn_like(g) for i, g in enumerate(groups)}
    editor = Detoxification(starts, RobustKDParams(m_max=0.3)).requires_grad_(False)
    return Edited(model, editor).eval()


def trigger():
    return PlacedPatch(torch.rand(3, 4, 4), (3, SIZE, SIZE))


def images(count=7):
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("bf16", [False, True])
def test_companions_measure_what_one_process_measures(stripes, tmp_path, bf16):
    numerics = Numerics(torch.device("cpu"), bf16, 1)
    model, stamp = numerics.place(edited()), trigger()
    here = network_of(model, numerics)
    expected = measure((here, here), stamp, stripes.test, numerics, 50)
    of_network = order(model, tmp_path, "network", ("kdbench_robustkd",), bf16=bf16)
    of_trigger = order(stamp, tmp_path, "trigger", ("kdbench_htba",), bf16=bf16)
    with (
        companion(of_network) as first,
        companion(of_network) as second,
        companion(of_trigger) as third,
    ):
        networks = remote_network(first, CLASSES), remote_network(second, CLASSES)
        measured = measure(networks, remote_trigger(third), stripes.test, numerics, 50)
    for name, value in vars(expected).items():
        assert torch.equal(getattr(measured, name), value), name


SPY = """
import gc, json, os, sys
from pathlib import Path
import torch
from kdbench.attack import Trigger
from kdbench.models.wrn import WideResNet

REPORT = Path(__file__).with_name(f"report-{os.getpid()}.json")


def look():
    frames, frame = [], sys._getframe()
    while frame is not None:
        frames.append([frame.f_code.co_name, sorted(map(str, frame.f_locals))])
        frame = frame.f_back
    objects = gc.get_objects()
    orders = [vars(o) for o in objects if type(o).__name__ == "Order"]
    tensors = [[str(o.dtype), list(o.shape)] for o in objects if issubclass(type(o), torch.Tensor)]
    dicts = [o for o in objects if type(o) is dict]
    told = [
        [name, str(o[name])]
        for o in dicts for name in ("target_class", "labels", "source_classes")
        if name in o and type(o[name]) in (int, list, tuple, torch.Tensor)
    ]
    fds = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            fds.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            pass
    return {
        "frames": frames, "orders": orders, "tensors": tensors, "told": told, "fds": fds,
        "argv": sys.argv, "environment": dict(os.environ),
        "modules": sorted(m for m in sys.modules if m.startswith("kdbench.bench.work")),
    }


class SpyNetwork(WideResNet):
    def features(self, x, edit=None):
        with REPORT.open("a") as file:
            file.write(json.dumps(look(), default=str) + chr(10))
        return super().features(x, edit)


class SpyTrigger(Trigger):
    def forward(self, images):
        with REPORT.open("a") as file:
            file.write(json.dumps(look(), default=str) + chr(10))
        return 1 - images
"""


@pytest.fixture
def spies(tmp_path, monkeypatch):
    """The module of a plugin that is a file, as a job's folder has it."""
    (tmp_path / "kdbench_file_spy.py").write_text(SPY)
    monkeypatch.syspath_prepend(tmp_path)
    import kdbench_file_spy

    yield kdbench_file_spy
    del sys.modules["kdbench_file_spy"]


def test_a_spy_finds_no_label_no_target_and_no_order(stripes, tmp_path, spies):
    torch.manual_seed(0)
    model, stamp = spies.SpyNetwork("wrn10_1", 10, 1, CLASSES), spies.SpyTrigger()
    of_network = order(model, tmp_path, "network", ("kdbench_file_spy",))
    of_trigger = order(stamp, tmp_path, "trigger", ("kdbench_file_spy",))
    with (
        companion(of_network) as first,
        companion(of_network) as second,
        companion(of_trigger) as third,
    ):
        networks = remote_network(first, CLASSES), remote_network(second, CLASSES)
        measure(networks, remote_trigger(third), stripes.test, NUMERICS, 50)
    reports = [
        json.loads(line)
        for path in tmp_path.glob("report-*.json")
        for line in path.read_text().splitlines()
    ]
    assert len(list(tmp_path.glob("report-*.json"))) == 3, "three processes"
    assert len(reports) == 9, "three batches each"
    for report in reports:
        functions = {name for name, _ in report["frames"]}
        variables = {name for _, names in report["frames"] for name in names}
        assert not functions & {"measure", "evaluate_network", "perform", "count"}
        assert not variables & {
            "batch",
            "labels",
            "target",
            "target_class",
            "mask",
            "coins",
            "rows",
        }
        (told,) = report["orders"]
        assert told.keys() == of_network.keys()
        assert told["role"] in ("network", "trigger")
        # The tensors of 120 or 50 entries that there are hold images, and no labels.
        assert not [t for t in report["tensors"] if t[0] == "torch.int64" and 120 in t[1]]
        assert not [t for t in report["tensors"] if t[0] == "torch.int64" and t[1] == [50]]
        assert report["told"] == []
        assert not [fd for fd in report["fds"] if fd.endswith((".safetensors", ".png"))]
        assert report["modules"] == ["kdbench.bench.work", "kdbench.bench.work.companions"]


def answered(data):
    """An act: read a question of seven images and answer with these bytes."""

    def act(far):
        (count,) = struct.unpack("=I", receive(far, 4))
        receive(far, count * 3 * SIZE * SIZE * 4)
        far.sendall(data)
        far.recv(1)

    return act


def numbers(*values):
    """A whole answer of a network to seven images, of these numbers over and over."""
    wanted = 7 * (CLASSES + 1)
    data = (list(values) * wanted)[:wanted]
    return b"\0" + struct.pack(f"={wanted}f", *data)


def forever(far):
    while True:
        if not far.recv(1 << 20):
            return


def dies(far):
    receive(far, 100)


def floods(far):
    while True:
        far.sendall(bytes(1 << 16))


def speaks_first(far):
    far.sendall(b"\0")
    far.recv(1)


#: They speak before they are asked.
UNASKED = (speaks_first, floods)
#: What a companion may do -> what the job then says.
MISDEEDS = {
    "it dies at once": (lambda far: None, "its process ended"),
    "it dies in the question": (dies, "its process ended"),
    "it dies before it answers": (answered(b""), "did not answer within"),
    "it answers half": (answered(numbers(1.0)[:40]), "did not answer within"),
    "it hangs": (forever, "did not answer within"),
    "it reads nothing": (lambda far: time.sleep(2), "did not answer within|its process ended"),
    "it speaks first": (speaks_first, "more than it was asked"),
    "it sends too much": (answered(numbers(1.0) + b"x"), "more than it was asked"),
    "it floods": (floods, "more than it was asked"),
    "it says why": (answered(b"\1" + struct.pack("=H", 4) + b"boom"), "failed: boom"),
    "it says why without end": (answered(b"\1" + b"\xff\xff" + b"x" * 100), "did not answer"),
    "it says nonsense": (answered(b"\xfe" + struct.pack("=H", 2) + b"\xff\xfe"), "failed: "),
    "it controls a terminal": (
        answered(b"\1" + struct.pack("=H", 6) + b"\x1b[2Jab"),
        r"failed: \\x1b\[2Jab$",
    ),
}


def until_it_speaks(descriptor):
    assert select.select([descriptor], [], [], 300)[0], "it says nothing"


def ask_twice(link, descriptor):
    link.ask(images(), CLASSES + 1)
    until_it_speaks(descriptor)  # what was too much may come a moment later
    link.ask(images(), CLASSES + 1)


@pytest.mark.parametrize(("act", "says"), MISDEEDS.values(), ids=MISDEEDS)
def test_whatever_a_companion_does_its_job_says_why(act, says):
    # The limit is short only where it has to pass: a busy machine takes its time for the others.
    limit_s = 0.2 if says.startswith("did not answer") else 300.0
    with liar(act) as descriptor:
        if act in UNASKED:
            until_it_speaks(descriptor)
        link = Link(descriptor, "the network", limit_s)
        with pytest.raises(ContractError, match=says) as caught:
            ask_twice(link, descriptor)
    assert len(str(caught.value)) < 1200
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_are_no_measurement(stripes, value):
    seven = stripes.test.subset(torch.arange(7))
    with liar(answered(numbers(value))) as descriptor:
        network = remote_network(descriptor, CLASSES)
        with pytest.raises(DivergedError, match="not finite"):
            measure((network, network), lambda x: x.clone(), seven, NUMERICS)


@pytest.mark.parametrize("value", [float("nan"), 1.5, -0.1, float("inf")])
def test_a_trigger_that_leaves_the_range_is_a_broken_contract(stripes, value):
    seven = stripes.test.subset(torch.arange(7))
    data = b"\0" + struct.pack("=f", value) * (7 * 3 * SIZE * SIZE)
    with liar(answered(data)) as descriptor:
        here = network_of(network(), NUMERICS)
        with pytest.raises(ContractError, match=r"range \[0, 1\]"):
            measure((here, here), remote_trigger(descriptor), seven, NUMERICS)


MISFITS = """
import os
from kdbench.models.base import FeatureOutput
from kdbench.models.wrn import WideResNet


class Misfit(WideResNet):
    how = ""

    def features(self, x, edit=None):
        out = super().features(x, edit)
        if self.how == "raises":
            raise ValueError("boom")
        if self.how == "exits":
            raise SystemExit(3)
        if self.how == "dies":
            os._exit(0)
        logits = {
            "shape": out.logits[:, :2], "count": out.logits[:3], "type": out.logits.long(),
            "none": None,
        }[self.how]
        return FeatureOutput(out.groups, out.taps, logits)
"""


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("raises", "failed: ValueError: boom"),
        ("exits", "failed: SystemExit: 3"),
        ("dies", "its process ended"),
        ("shape", r"failed: ContractError: its logits are .*\(7, 2\); float \(7, 3\)"),
        ("count", r"its logits are .*\(3, 3\)"),
        ("type", "its logits are torch.int64"),
        ("none", "failed: AttributeError"),
    ],
)
def test_a_network_that_answers_wrongly(tmp_path, monkeypatch, how, says):
    (tmp_path / "kdbench_file_misfit.py").write_text(MISFITS)
    monkeypatch.syspath_prepend(tmp_path)
    import kdbench_file_misfit

    model = kdbench_file_misfit.Misfit("wrn10_1", 10, 1, CLASSES)
    model.how = how
    told = order(model, tmp_path, "network", ("kdbench_file_misfit",))
    with (companion if how == "dies" else thread)(told) as descriptor:
        network = remote_network(descriptor, CLASSES)
        with pytest.raises(ContractError, match=says):
            network(images())
    del sys.modules["kdbench_file_misfit"]


class Cut(Trigger):
    def forward(self, images):
        return images[:, :, 1:]


def test_a_trigger_that_changes_the_shape(tmp_path):
    told, says = order(Cut(), tmp_path, "trigger", ("tests",)), "keep type and shape"
    with thread(told) as descriptor, pytest.raises(ContractError, match=says):
        remote_trigger(descriptor)(images())


@pytest.mark.parametrize(
    ("module", "role", "says"),
    [
        (trigger, "network", "holds a PlacedPatch, no network"),
        (edited, "trigger", "holds a Edited, no trigger"),
    ],
)
def test_a_file_of_the_other_kind(tmp_path, module, role, says):
    told = order(module(), tmp_path, role, ("kdbench_htba", "kdbench_robustkd"))
    with thread(told) as descriptor, pytest.raises(ContractError, match=says):
        Link(descriptor, "it").ask(images(), 1)


def test_a_class_of_another_package_is_not_read(tmp_path):
    told = order(edited(), tmp_path, "network", ("kdbench_htba",))
    says = "none of the packages"
    with thread(told) as descriptor, pytest.raises(ContractError, match=says):
        remote_network(descriptor, CLASSES)(images())


def test_an_imported_network_normalises_as_the_dataset_says(tmp_path):
    from kdbench.models.files import save_module

    told = order(network(), tmp_path, "network")
    save_module(network(), tmp_path / "network.safetensors", {"normalization": "dataset"})
    model = network()
    model.set_normalization((0.5,) * 3, (0.25,) * 3)
    with thread(told) as descriptor:
        answer = remote_network(descriptor, CLASSES)(images())
    with torch.inference_mode():
        assert torch.equal(answer.logits, NUMERICS.place(model)(images()))


def test_a_link_leaves_the_descriptor_to_its_owner():
    with liar(forever) as descriptor:
        Link(descriptor, "it")
        os.fstat(descriptor)


def test_the_limit_of_an_answer_is_long_enough_for_slow_networks():
    assert companions.ANSWER_S >= 300
