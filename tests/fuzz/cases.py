"""Whole calls of each command. Those of ``hostile`` may be refused, and those of ``sound`` not."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

from hypothesis import strategies as st

from tests.fuzz import plugin_files, trees, weights
from tests.fuzz.case import Case, File
from tests.fuzz.environment import surroundings
from tests.fuzz.options import ATTACKS, DATASETS, DEFENSES, DISTILLERS, MODELS, request
from tests.fuzz.specs import EDITORS, RIGHT, specs, text
from tests.fuzz.tables import KEPT, records, tables
from tests.fuzz.values import NUMBERS, is_name, names, numbers, often, words

#: The files of a run that was really made: results.csv, run.json and others by their names.
Run = dict[str, bytes]
#: Options of a run that takes seconds.
TINY = (
    *("--attack", "badnets", "--pair", "wrn10_1-wrn10_1", "--image-size", "16", "--threads", "1"),
    *("--set", "clean.epochs=1", "--set", "poison.epochs=1", "--set", "distill.epochs=1"),
    *("--set", "min_teacher_acc=0"),
    "--no-controls",
)
_REQUEST = ("--attack", "badnets", "--pair", "wrn10_1-wrn10_1")
_PLUGIN_NAMES = ("mine.py", "mine.txt", "mine", "os.py", "torch.py", "class.py", "1.py", "a-b.py")


def _path_of(name: str) -> str:
    """A path that no program takes for an option."""
    return f"./{name}" if name.startswith("-") else name


@st.composite
def requests(draw: st.DrawFn) -> Case:
    """``plan`` and ``run --dry-run`` on a folder of images, with a spec or without."""
    root, files = draw(trees.folders(harmless=False))
    arguments = draw(request(hostile=True))
    what = draw(st.integers(0, 9))
    if what == 0:
        kind = draw(st.sampled_from(["zip", "tar"]))
        content = trees.archive(files, kind)
        content = content[: draw(st.sampled_from([len(content), len(content) // 2, 3, 0]))]
        files, root = (File(f"photos.{kind}", content),), f"photos.{kind}"
    dataset = draw(often(st.just(f"imagefolder:{root}"), st.sampled_from(DATASETS) | words(), 9))
    arguments += ["--dataset", dataset]
    if what == 1:
        arguments += ["--data-dir", draw(st.just(root) | words())]
    if what == 2:
        name = draw(st.just("s.toml") | names())
        if not any(file.path.split("/")[0] == name for file in files):
            files += (File(name, draw(specs(hostile=True))),)
        arguments = ["--spec", name, *draw(st.sampled_from([[], arguments]))]
    if what == 3:
        arguments += ["--store", draw(words())]
    command = draw(st.sampled_from([["plan"], ["run", "--dry-run"]]))
    return Case(((*command, *arguments),), files, **draw(surroundings(hostile=True)))


@st.composite
def spec_files(draw: st.DrawFn) -> Case:
    """``plan`` of a spec file alone."""
    files = (File("s.toml", draw(specs(hostile=True))),)
    more = draw(st.sampled_from([[], ["--toml"], ["--json"], ["--threads=1"], ["--seeds=2"]]))
    return Case((("plan", "s.toml", *more),), files, **draw(surroundings(hostile=True)))


@st.composite
def tables_read(draw: st.DrawFn, run: Run) -> Case:
    """``leaderboard`` and ``compare`` of changed tables."""
    name = draw(often(st.just("a"), names().filter(lambda name: name != "b"), 7))
    table, other = run["results.csv"], run["results.csv"]
    files = [File(f"{name}/results.csv", draw(tables(table)))]
    files.append(File("b/results.csv", draw(st.just(other) | tables(other))))
    places = [_path_of(name), f"{_path_of(name)}/results.csv", "b", "nowhere", ".", "/dev/null"]
    place = often(st.sampled_from(places[:3]), st.sampled_from(places) | words(), 9)
    command = draw(st.sampled_from(["leaderboard", "compare"]))
    count = draw(st.sampled_from([2] * 9 + [0, 1, 3]))
    arguments = [draw(place) for _ in range(count)]
    if draw(st.booleans()):
        arguments.append(draw(st.sampled_from(["--split", "--json"])))
    if command == "leaderboard" and draw(st.integers(0, 3)) == 0:
        arguments += ["--out", draw(words().filter(lambda word: not word.startswith("/")))]
    return Case(((command, *arguments),), tuple(files), **draw(surroundings(hostile=True)))


@st.composite
def runs_checked(draw: st.DrawFn, run: Run) -> Case:
    """``verify`` of a run's folder in which a file was changed."""
    files = dict(run)
    which = draw(st.sampled_from(["results.csv", "run.json"]))
    files[which] = draw(tables(run[which]) if which == "results.csv" else records(run[which]))
    cells = draw(often(st.just("0"), numbers(), 9))
    arguments = ["verify", "a", "--cells", cells, "--seed", draw(often(st.just("1"), numbers(), 9))]
    written = (*trees.tree(), *(File(f"a/{name}", content) for name, content in files.items()))
    # A cell that is computed again takes seconds, and this one is changed.
    if cells != "0" and draw(st.integers(0, 3)):
        arguments[3] = "0"
    return Case((tuple(arguments),), written, **draw(surroundings(hostile=True)))


@st.composite
def teachers(draw: st.DrawFn) -> Case:
    """``import-teacher`` of a file, and ``list teachers`` after it."""
    name = draw(often(st.just("mine.pth"), names(), 7))
    files = (File(name, draw(weights.weights())), *trees.tree())
    arguments = [_path_of(name)]
    arguments += ["--model", draw(often(st.just(weights.MODEL), st.sampled_from(MODELS), 8))]
    dataset = often(st.just("imagefolder:photos"), st.sampled_from(DATASETS) | words(), 8)
    arguments += ["--dataset", draw(dataset)]
    for option, right in (("--num-classes", "3"), ("--image-size", "16")):
        if draw(st.integers(0, 4)):
            arguments += [option, draw(often(st.just(right), numbers(), 9))]
    if draw(st.integers(0, 4)):
        arguments += ["--name", "mine"]
    if draw(st.integers(0, 2)) == 0:
        option = draw(st.sampled_from(["--name", "--sha256", "--memory", "--time-limit"]))
        arguments += [option, draw(words() if option in ("--name", "--sha256") else numbers())]
    steps = (("import-teacher", *arguments), ("list", "teachers"))
    return Case(steps, files, **draw(surroundings(hostile=True)))


@st.composite
def plugins(draw: st.DrawFn) -> Case:
    """Commands that load a plugin file."""
    name = draw(often(st.just("mine.py"), st.sampled_from(_PLUGIN_NAMES) | names(), 7))
    files = (File(name, draw(plugin_files.sources())), *trees.tree())
    loaded = ["--plugin-file", _path_of(name)]
    folder = ["--dataset", "imagefolder:photos", "--image-size", "16"]
    command = draw(
        st.sampled_from(
            [
                ["plugins"],
                ["plugins", "--json"],
                ["list"],
                ["list", "attacks", "mine"],
                ["list", "models", "mine"],
                ["plan", *_REQUEST, "--dataset", "mine"],
                ["plan", *_REQUEST, "--dataset", "mine", "--data-dir", "photos"],
                ["run", "--dry-run", *_REQUEST, "--attack", "mine", *folder],
                ["plan", *_REQUEST, *folder, "--teacher", "mine", "--student", "wrn10_1"],
            ]
        )
    )
    return Case(((*command, *loaded),), files, **draw(surroundings(hostile=True)))


@st.composite
def lists(draw: st.DrawFn) -> Case:
    """``list``, ``plugins`` and ``check`` with names."""
    kinds = ["attacks", "defenses", "distillers", "models", "datasets", "presets", "teachers"]
    command = draw(st.sampled_from(["list", "list", "plugins", "check", "-h", "--version"]))
    arguments = [command]
    if command == "list" and draw(st.integers(0, 4)):
        kind = draw(often(st.sampled_from([*kinds, *["models"] * 7]), words(), 9))
        arguments.append(kind)
        known = MODELS if kind == "models" else ATTACKS + DEFENSES + DISTILLERS
        if draw(st.integers(0, 4)):
            arguments.append(draw(often(st.sampled_from(known), words(), 9)))
        if draw(st.integers(0, 2)):
            arguments += [
                "--image-size",
                draw(often(st.sampled_from(["8", "16", "64"]), numbers())),
            ]
    if command == "check":
        arguments.append(draw(words()))
    if command in ("list", "plugins") and draw(st.integers(0, 3)) == 0:
        arguments += draw(st.sampled_from([["--json"], ["-p", "no:badnets"], ["-p", "x"]]))
    return Case((tuple(arguments),), (), **draw(surroundings(hostile=True)))


@st.composite
def stores(draw: st.DrawFn) -> Case:
    """``store`` on a folder in which anything may lie."""
    files = draw(
        st.lists(
            st.builds(
                File,
                st.builds(
                    lambda where, name: f"store/{where}{name}",
                    st.sampled_from(["", "vault.0123456789abcdef0123456789abcdef/", "jobs/"])
                    | st.sampled_from(["vault.00/objects/ab/", "vault.00/teachers/", "objects/"]),
                    names(),
                ),
                st.sampled_from([b"", b"{}", b"[1]", b"\xff", b"nowhere"]),
                st.sampled_from(["file", "folder", "pipe", "link"]),
            ),
            max_size=2,
            unique_by=lambda file: file.path.split("/")[1],
        )
    )
    command = draw(
        st.sampled_from([["ls"], ["ls", "--json"], ["verify"], ["gc"], ["gc", "--dry-run"], ["x"]])
    )
    if command[0] == "gc" and draw(st.booleans()):
        command = [*command, draw(st.sampled_from(["--days", "--unused-days"])), draw(numbers())]
    store = draw(often(st.just("store"), words().filter(lambda word: word[:1] != "/"), 8))
    arguments = ("store", *command, "--store", store)
    return Case((arguments,), tuple(files), **draw(surroundings(hostile=True)))


@st.composite
def new_plugins(draw: st.DrawFn) -> Case:
    """``new-plugin``."""
    kind = draw(
        often(st.sampled_from(["attack", "defense", "distiller", "dataset", "network"]), words(), 9)
    )
    arguments = ["new-plugin", kind, draw(st.sampled_from(["mine", "my-own"]) | words())]
    if draw(st.booleans()):
        out = words().filter(lambda word: not word.startswith(("/", "..")))
        arguments += ["--out", draw(out)]
    return Case((tuple(arguments),), (File("file"),), **draw(surroundings(hostile=True)))


@st.composite
def reproductions(draw: st.DrawFn) -> Case:
    """``reproduce --dry-run``."""
    name = draw(often(st.sampled_from(["table3", "fig4", "fig2"]), words(), 6))
    options = draw(request(hostile=True))
    more = draw(st.sampled_from([[], options[:2], options[4:6]]))
    arguments = ("reproduce", name, "--dry-run", *more)
    return Case((arguments,), (), **draw(surroundings(hostile=True)))


@st.composite
def tiny_runs(draw: st.DrawFn) -> Case:
    """A real run of seconds, and its table read back."""
    root, files = draw(trees.folders(harmless=True))
    out = draw(often(st.just("out"), names().filter(lambda name: name != root), 5))
    seed = draw(st.sampled_from(["0", "1", *NUMBERS["large"], *NUMBERS["too large"][:3]]))
    run = ("run", *TINY, f"--dataset=imagefolder:{root}", f"--out={out}", f"--seed={seed}")
    steps = (run, ("compare", _path_of(out), _path_of(out)), ("leaderboard", _path_of(out)))
    return Case(steps, files, read_back=True, **draw(surroundings(hostile=False)))


@st.composite
def sound(draw: st.DrawFn, run: Run) -> Case:
    """A call that is right, on files as people have them, in surroundings as people have them."""
    around = draw(surroundings(hostile=False))
    what = draw(st.integers(0, 5))
    if what <= 2:
        root, files = draw(trees.folders(harmless=True))
        place = root
        # An archive is refused whose names a terminal could obey.
        if what == 1 and all(file.path.isprintable() for file in files):
            kind = draw(st.sampled_from(["zip", "tar"]))
            beside = draw(st.sampled_from([(), (File("README.txt", b"x"),)]))
            place = "photos.zip" if kind == "zip" else "photos.tar"
            files = (File(place, trees.archive((*files, *beside), kind)),)
        options = draw(request(hostile=False))
        small = ("--image-size", "16") if "--image-size" not in options else ()
        command = draw(st.sampled_from([("plan",), ("run", "--dry-run")]))
        where = draw(
            st.sampled_from(
                [
                    (f"--dataset=imagefolder:{place}",),
                    ("--dataset=imagefolder", f"--data-dir={place}"),
                ]
            )
        )
        steps = ((*command, *options, *small, *where),)
    elif what == 3:
        content = draw(specs(hostile=False))
        name = draw(names().filter(lambda name: not name.startswith("-")))
        files, steps = (File(name, content),), (("plan", name),)
    elif what == 4:
        name = draw(names())
        files = (File(f"{name}/results.csv", draw(st.sampled_from(KEPT))(run["results.csv"])),)
        steps = (
            ("compare", _path_of(name), f"{_path_of(name)}/results.csv"),
            ("leaderboard", _path_of(name), f"--out={draw(names().filter(lambda n: n != name))}"),
        )
    else:
        name = draw(names().filter(lambda name: is_name(f"{name}.pth")))
        files = (File(f"{name}.pth", weights.FILES["state_dict"]()), *trees.tree())
        options = ("--num-classes=3", "--image-size=16", "--dataset=imagefolder:photos")
        call = ("import-teacher", _path_of(f"{name}.pth"), "--model", weights.MODEL, "--name=mine")
        steps = ((*call, *options), ("list", "teachers"), ("store", "ls"))
    return dataclasses.replace(Case(steps, files, **around), sound=True)


def hostile(run: Run) -> st.SearchStrategy[Case]:
    """A call of any command but a run."""
    makers: list[Callable[[], st.SearchStrategy[Case]]] = [
        *[requests] * 4,
        spec_files,
        *[functools.partial(tables_read, run)] * 2,
        functools.partial(runs_checked, run),
        *[teachers] * 2,
        *[plugins] * 2,
        *[lists] * 2,
        stores,
        new_plugins,
        reproductions,
    ]
    return st.sampled_from(range(len(makers))).flatmap(lambda at: makers[at]())


__all__ = ["EDITORS", "RIGHT", "TINY", "Run", "hostile", "sound", "text", "tiny_runs"]
