"""Plugin files as a beginner writes them."""

from __future__ import annotations

from hypothesis import strategies as st

_HOOK = "from kdbench.hookspecs import hookimpl\n@hookimpl\n"
_ATTACK = (
    "from kdbench.method import Info\nfrom kdbench_badnets.method import BadNets\n"
    "class Mine(BadNets):\n    info = Info({name!r}, 't', 'a', 'v', 2020, 'http://x')\n"
    + _HOOK
    + "def kdbench_attacks():\n    return [Mine]\n"
)
_DATASET = (
    "from kdbench.data import DatasetSource\ndef load(request):\n    {body}\n"
    + _HOOK
    + "def kdbench_datasets():\n    return {{'mine': DatasetSource(load, {more})}}\n"
)
_MODEL = (
    "import torch\nfrom kdbench.models import ModelSource\ndef make(classes, size):\n    {body}\n"
    + _HOOK
    + "def kdbench_models():\n    return {{'mine': ModelSource(make)}}\n"
)


def dataset(body: str, more: str = "num_classes=3, image_size=16") -> str:
    """A plugin with a dataset of this function."""
    return _DATASET.format(body=body, more=more)


def network(body: str) -> str:
    """A plugin with a network that this function makes."""
    return _MODEL.format(body=body)


#: A plugin file that is right.
GOOD = _ATTACK.format(name="mine")
_FILES = (
    GOOD,
    "\ufeff" + GOOD,
    GOOD.replace("\n", "\r\n"),
    "# caf\u00e9\n" + GOOD,
    "import helpers\n" + GOOD,
    _ATTACK.format(name="badnets"),
    _ATTACK.format(name="[bold]\x1b[2J"),
    _ATTACK.format(name=""),
    GOOD.replace("return [Mine]", "return Mine"),
    GOOD.replace("return [Mine]", "raise ValueError('my own mistake')"),
    GOOD.replace("kdbench_attacks", "kdbench_atacks"),
    "",
    "def f(:\n",
    "raise ValueError('boom')\n",
    "raise SystemExit(3)\n",
    "raise KeyboardInterrupt\n",
    "import os\nos._exit(0)\n",
    "import os\nos.kill(os.getpid(), 9)\n",
    "import os\nos.chdir('/nowhere')\n",
    "print('hello'); import sys; sys.stdout.close(); sys.stderr.close()\n" + GOOD,
    "open('left-behind', 'w').write('x')\n" + GOOD,
    "import sys\nsys.setrecursionlimit(60)\n" + GOOD,
    "x = '\ud800'.encode()\n" + GOOD,
    "\0",
    "\t" + GOOD,
    *(
        dataset(body, more)
        for more in ("num_classes=3, image_size=16", "", "num_classes='x'", "num_classes=-1")
        for body in (
            "raise ValueError('my own mistake')",
            "return None",
            "return request.data_dir / 'x'",
            "return request.folder / 'x'",
        )
    ),
    *(
        network(body)
        for body in (
            "raise ValueError('my own mistake')",
            "return torch.nn.Linear(2, 2)",
            "return None",
        )
    ),
)


def sources() -> st.SearchStrategy[bytes]:
    """The content of a plugin file."""
    return st.sampled_from(_FILES).map(lambda text: text.encode("utf-8", "surrogatepass"))
