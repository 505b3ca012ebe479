"""What the fuzz test found once. Each is played again, as small as it became."""

from __future__ import annotations

from tests.fuzz import plugin_files, trees
from tests.fuzz.case import Case, File
from tests.fuzz.cases import TINY

_REQUEST = ("--attack", "badnets", "--pair", "wrn10_1-wrn10_1")
_FOLDER = ("--dataset", "imagefolder:photos", "--image-size", "16")
_PLAN = ("plan", *_REQUEST, *_FOLDER)
_RUN = ("run", *TINY, "--dataset", "imagefolder:photos", "--out", "out")
_TREE = trees.tree()
_E9 = "caf\udce9"
_SPEC = b'attacks = ["badnets"]\npairs = ["wrn10_1-wrn10_1"]\n'
_ASCII = {"encoding": "ascii"}


def _sound(*steps: tuple[str, ...], files: tuple[File, ...] = _TREE, **around: str) -> Case:
    return Case(steps, files, sound=True, **around)


def _plugin(source: str, *arguments: str) -> Case:
    file = File("mine.py", source.encode())
    return Case(((*arguments, "--plugin-file", "mine.py"),), (*_TREE, file))


def _in_folder(name: str, content: bytes = b"") -> tuple[File, ...]:
    return (*_TREE, File(f"photos/train/ant/{name}", content))


_ZIP = File("p.zip", trees.archive((*_TREE, File("README.txt", b"ours")), "zip"))
_NO_FOLDER = plugin_files.dataset("return request.data_dir / 'x'")
_MISTAKE = "raise ValueError('my own mistake')"
_DISTILLED = "timm/deit_tiny_distilled_patch16_224"

FOUND: dict[str, Case] = {
    # Standard output.
    "a full disk behind a plan": Case((_PLAN,), _TREE, output="full"),
    "a full disk behind a list": Case((("list",),), output="full"),
    "a full disk behind a run": Case((_RUN,), _TREE, output="full"),
    "a pipe that nobody reads": Case((_RUN,), _TREE, output="broken"),
    "a pipe that nobody reads, JSON": Case((("plugins", "--json"),), output="broken"),
    "no standard output": Case((_PLAN,), _TREE, output="closed"),
    "no standard output of a list": Case((("list",),), output="closed"),
    "no standard output of a run": Case((_RUN,), _TREE, output="closed"),
    # Numbers.
    "a seed that no table holds": Case(
        ((*_RUN, "--seed", "9223372036854775807"), ("compare", "out", "out")), _TREE, read_back=True
    ),
    "seeds that fill the memory": Case(((*_PLAN, "--seeds", "99999999999"),), _TREE),
    "seeds beyond 64 bits": Case(((*_PLAN, "--seeds", "9" * 24),), _TREE),
    "a thousand threads": Case(((*_RUN, "--threads", "1000"),), _TREE),
    # Paths that are too long.
    "a long path of results": Case((("run", *_REQUEST, *_FOLDER, "--out", "a/" * 3000),), _TREE),
    "a long name of a package": Case((("new-plugin", "attack", "mine", "--out", "a" * 300),)),
    "a long name of a store": Case((("store", "ls", "--store", "a" * 300),)),
    # Names.
    "a package that is not UTF-8": _sound(("new-plugin", "attack", "mine", "--out", _E9), files=()),
    "an image that is not UTF-8": _sound(_PLAN, files=_in_folder(f"{_E9}.png", trees.picture(3))),
    "a class that is not UTF-8": _sound(_PLAN, files=trees.tree(classes=("ant", "bee", _E9))),
    "a name that a terminal cannot show": _sound(
        ("plan", *_REQUEST, "--dataset", "imagefolder:é", "--image-size", "16"),
        files=trees.tree("é"),
        **_ASCII,
    ),
    "no UTF-8 in TOML": Case((("plan", *_REQUEST, f"--dataset=imagefolder:{_E9}", "--toml"),)),
    # Files as people have them.
    "a picture of macOS": _sound(_PLAN, files=_in_folder("._0.png", b"Mac OS X")),
    "a class in two spellings": _sound(
        _PLAN, files=trees.tree(classes=("ant", "bee", "é"), test=("ant", "bee", "e\u0301"))
    ),
    "a text beside the folder in a zip": _sound(
        ("plan", *_REQUEST, "--dataset", "imagefolder:p.zip", "--image-size", "16"), files=(_ZIP,)
    ),
    "a spec from Notepad": _sound(
        ("plan", "s.toml"), files=(File("s.toml", b"\xef\xbb\xbf" + _SPEC.replace(b"\n", b"\r\n")),)
    ),
    "a pipe among the images": Case(
        (_PLAN,), (*_TREE, File("photos/train/ant/p.png", kind="pipe"))
    ),
    # A store.
    "a stranger's file in a store": _sound(
        ("store", "verify", "--store", "store"), files=(File("store/objects/ab", b"ours"),)
    ),
    # Words that a message of the command line repeats.
    "an option that a terminal obeys": Case((("compare", "a", "b", "\x1b[2J"),)),
    # Networks and plugins.
    "a network with two heads": Case((("list", "models", _DISTILLED, "--image-size", "64"),)),
    "a dataset without its folder": _plugin(_NO_FOLDER, "plan", *_REQUEST, "--dataset", "mine"),
    "a dataset's mistake": _plugin(
        plugin_files.dataset(_MISTAKE), "plan", *_REQUEST, "--dataset", "mine"
    ),
    "a network's mistake": _plugin(plugin_files.network(_MISTAKE), "list", "models", "mine"),
    "a network that is none": _plugin(
        plugin_files.network("return None"),
        *("plan", "--attack", "badnets", "--teacher", "mine", "--student", "wrn10_1", *_FOLDER),
    ),
}
