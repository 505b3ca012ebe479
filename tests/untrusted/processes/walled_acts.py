"""What the walled processes of these tests do."""

from __future__ import annotations

import json
import os
import time


def answer(channel, value):
    channel.sendall(json.dumps(value).encode() + b"\n")


def tell(channel, order, links):
    """Say what it was given."""
    handles = sorted(int(name) for name in os.listdir("/proc/self/fd"))
    answer(channel, {"order": order, "links": sorted(links), "environment": dict(os.environ)})
    answer(channel, {"handles": len(handles), "folder": os.getcwd()})
    for handle in links.values():
        os.write(handle, b"from the process")


def end(channel, order, links):
    """End as the order says."""
    if "signal" in order:
        os.kill(os.getpid(), order["signal"])
    if order.get("abort"):
        os.abort()
    print("a last word")
    raise SystemExit(order["code"])


def sleep(channel, order, links):
    answer(channel, os.getpid())
    time.sleep(order.get("seconds", 600))


def flood(channel, order, links):
    while True:
        channel.sendall(b'"' + b"x" * 65536 + b'"' + order["end"].encode())


def repeat(channel, order, links):
    for line in channel.makefile("rb"):
        channel.sendall(line)


def survive(channel, order, links):
    """Leave a process behind that has no parent, and its own session."""
    if not os.fork():
        os.setsid()
        if os.fork():
            os._exit(0)
        memory = bytearray(order["mb"] << 20)
        memory[::4096] = b"x" * len(memory[::4096])
        answer(channel, "survivor")
        time.sleep(600)
    if not order["leaves"]:
        time.sleep(600)
    channel.recv(1)


def work(channel, order, links):
    """What a plugin may need: threads, workers of a data loader, pictures, files, a program."""
    import subprocess
    import sys
    from pathlib import Path

    import matplotlib
    import safetensors.torch
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    box = Path(order["box"])
    torch.set_num_threads(2)
    images, labels = torch.rand(32, 3, 16, 16), torch.arange(32) % 4
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.BatchNorm2d(8),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 14 * 14, 4),
    )
    optimiser = torch.optim.SGD(net.parameters(), 0.01)
    seen = 0
    for batch, target in DataLoader(TensorDataset(images, labels), 8, num_workers=order["workers"]):
        torch.nn.functional.cross_entropy(net(batch), target).backward()
        optimiser.step()
        seen += len(batch)
    safetensors.torch.save_file(net.state_dict(), box / "weights")
    loaded = safetensors.torch.load_file(box / "weights")
    matplotlib.use("agg")
    from matplotlib import pyplot

    pyplot.title("text")
    pyplot.savefig(box / "picture.png")
    program = "import os, torch; print(os.getpid() > 1)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    answer(
        channel,
        {
            "seen": seen,
            "threads": torch.get_num_threads(),
            "weights": len(loaded),
            "picture": (box / "picture.png").stat().st_size > 100,
            "program": said.stdout + said.stderr,
        },
    )


def kill_everybody(channel, order, links):
    """Everybody but itself: its supervisor, its neighbours, the coordinator."""
    import signal

    if order["kill"] and os.getpid() > 10:
        return  # it would really end everybody
    for pid in (-1 if order["kill"] else os.getppid(), 1):
        try:
            os.kill(pid, signal.SIGKILL if order["kill"] else 0)
        except OSError as error:
            answer(channel, error.errno)
        else:
            answer(channel, 0)
    time.sleep(0.2)
    answer(channel, "still here")


def multiply(channel, order, links):
    """As many processes as it can get."""
    children = 0
    try:
        while children < 600:
            if not os.fork():
                time.sleep(600)
            children += 1
    except OSError as error:
        answer(channel, [children, type(error).__name__])
    else:
        answer(channel, [children, "no limit"])


def fill(channel, order, links):
    """Too large a file, and too much shared memory."""
    errors = []
    for place in (order["box"] + "/file", "/dev/shm/file"):
        try:
            with open(place, "wb", 0) as file:
                for _ in range(16):
                    file.write(bytes(1 << 20))
            errors.append(0)
        except OSError as error:
            errors.append(error.errno)
    answer(channel, errors)


def search(channel, order, links):
    """Look for a word in its whole memory. The order holds it in reverse."""
    from pathlib import Path

    word = order["drow"][::-1].encode()
    places = 0
    with open("/proc/self/mem", "rb", 0) as memory:
        for line in Path("/proc/self/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            begin, end = (int(part, 16) for part in span.split("-"))
            if rights[0] != "r" or "[v" in line:
                continue
            try:
                memory.seek(begin)
                places += memory.read(end - begin).count(word)
            except (OSError, ValueError, OverflowError):
                continue
    # Its own copies: the word that it looks for, and none that came from elsewhere.
    answer(channel, places)


def hand_over(channel, order, links):
    """Send descriptors to the coordinator, who never asked for any."""
    import socket

    for _ in range(50):
        socket.send_fds(channel, [b'"x"\n'], [0] * 20)


def open_files(channel, order, links):
    """Say which of many files can be opened, and whether their folder can be listed."""
    import os

    opened = []
    for path in order["paths"]:
        try:
            with open(path):
                opened.append(path)
        except OSError:
            continue
    try:
        listed = len(os.listdir(order["folder"]))
    except OSError:
        listed = 0
    answer(channel, [opened, listed])


def look_around(channel, order, links):
    """Say what can be imported from a folder, what can be read of it, and which names it shows."""
    import importlib
    from pathlib import Path

    imported = []
    for name in order["modules"]:
        try:
            imported.append(importlib.import_module(name).__name__)
        except ImportError:
            continue
    folder, opened = Path(order["folder"]), []
    for name in order["files"]:
        try:
            (folder / name).read_text()
            opened.append(name)
        except OSError:
            continue
    answer(channel, [imported, opened, sorted(os.listdir(folder))])
