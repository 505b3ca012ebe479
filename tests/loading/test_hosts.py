"""Whatever a plugin does to the process that answers for it, everybody else goes on."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
from pydantic_core import to_jsonable_python

from kdbench.bench.plan.prepare import prepare
from kdbench.bench.request.spec import RunSpec, resolve
from kdbench.bench.run.events import Quiet
from kdbench.bench.run.runner import run
from kdbench.bench.store.artefacts import Store
from kdbench.bench.work.executors.local import LocalExecutor
from kdbench.errors import ConfigError, ContractError, KdbenchError, UsageError
from kdbench.loading.candidates import describe_file
from kdbench.loading.catalogue import Catalogue
from kdbench.loading.choice import PluginChoice
from kdbench.loading.hosted import HostLimits
from kdbench.loading.hosts import Hosts
from tests.loading.strangers import GOOD

#: Writes to whatever may be the channel.
SAY = """
import os
def say(data):
    for handle in range(3, 64):
        try:
            left = data
            while left:
                left = left[os.write(handle, left):]
        except OSError:
            pass
"""


def report(name, **said):
    """What a process says of a plugin."""
    values = {"status": "ok", "api": "", "seconds": 0, "cause": "", "trace": "", "defines": []}
    return json.dumps({"plugin": {"name": name, **values, **said}}).encode() + b"\n"


def facts(name, info_name, **fields):
    """What a process says of an attack."""
    texts = {"title": "t", "authors": "a", "venue": "v", "year": 2020, "link": "x"}
    info = {"name": info_name, **texts}
    tables = {"fields": {}, "variants": {}, "known_failures": {}}
    return {"kind": "attack", "name": name, "info": info, "class_name": "x", **tables, **fields}


CLAIM = report("lba")
BORROWS = report("borrows", defines=[facts("borrows", "lba")])
HALF_A_LETTER = {"a": {"text": "", "params": {"x": "\ud800"}}}
HALF = report("half", defines=[facts("half", "half", variants=HALF_A_LETTER)])
COLOURED = report("colours", status="broken", cause="\x1b[2J")
NONSENSE = "its process said nonsense"
#: Name -> (source, what its cause must say).
HOSTILE = {
    "exits": ("import os\nos._exit(7)", "its process exited with code 7 while it was imported"),
    "leaves": ("import sys\nsys.exit(3)", "SystemExit: 3"),
    "dies": (
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        "its process was ended by SIGKILL while it was imported",
    ),
    "mumbles": (f"{SAY}say(b'{{nonsense\\n')", NONSENSE),
    "digs": (f"{SAY}say(b'[' * 200_000 + b'\\n')", NONSENSE),
    "floods": (f"{SAY}say(b'x' * (10 << 20))\nos._exit(0)", "its process said too much"),
    "claims": (f"{SAY}say({CLAIM!r})", NONSENSE),
    "borrows": (f"{SAY}say({BORROWS!r})", NONSENSE),
    "half": (f"{SAY}say({HALF!r})", NONSENSE),
    "colours": (f"{SAY}say({COLOURED!r})", NONSENSE),
    "shouts": ("raise ValueError('\\x1b[2J\\nboom')", "ValueError: \\x1b[2J boom"),
    "deep": (
        "import os, tempfile\nos.chdir(tempfile.gettempdir())\n"
        "for _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')\n1 / 0",
        "ZeroDivisionError",
    ),
    "closes": ("import os\nos.closerange(3, 64)", "while it was imported"),
    "long": (GOOD.replace("NAME", "x" * 300), "at most 100 characters"),
}
#: Patches what it can reach, and is a good plugin besides.
PATCHES = (
    "import builtins, json, kdbench.errors, kdbench.loading.candidates as candidates\n"
    "print('hello')\n"
    "def evil(*a, **k): raise SystemExit(9)\n"
    "builtins.print = json.loads = kdbench.errors.unknown = candidates.digest_of = evil\n"
    f"{GOOD.replace('NAME', 'patches')}"
)


def test_each_hostile_plugin_is_broken_or_itself_and_harms_nobody(load, registry):
    sources = {name: source for name, (source, _) in HOSTILE.items()}
    known = load({**sources, "patches": PATCHES, "good": GOOD.replace("NAME", "good")})
    causes = {plugin.name: plugin.cause for plugin in known.plugins if plugin.is_file}
    for name, (_, cause) in HOSTILE.items():
        assert cause in causes[name], name
        assert causes[name].isprintable()
    assert (causes["patches"], causes["good"]) == ("", "")
    assert {*known.names("attack")} == {*registry.names("attack"), "patches", "good"}
    for kind in ("attack", "defense", "distiller"):
        for name in registry.names(kind):
            assert known.facts(kind, name) == registry.facts(kind, name)
            assert known.methods[kind][name].origin == registry.methods[kind][name].origin


@pytest.mark.parametrize(
    ("limits", "cause"),
    [
        ({"import_s": 0.5}, "its process did not end in 0.5 s while it was imported"),
        ({"memory_mb": 1.0}, "its process took more than 1 MiB while it was imported"),
    ],
)
def test_a_plugin_that_takes_too_much_is_ended(zygote, tmp_path, limits, cause):
    (tmp_path / "loops.py").write_text("while True: pass")
    hosts = Hosts(zygote, HostLimits(**limits))
    try:
        hosts.begin([describe_file(tmp_path / "loops.py")])
        (plugin,) = hosts.describe()
    finally:
        hosts.close()
    assert (plugin.status, plugin.cause) == ("broken", cause)


def test_of_one_distribution_the_others_are_loaded_again(zygote, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name, source in (("a", "A = 1"), ("b", "import os\nos._exit(1)"), ("c", "")):
        text = GOOD.replace("NAME", f"good_{name}") if name != "b" else source
        (tmp_path / f"several_{name}.py").write_text(text)
    hosts = Hosts(zygote)
    points = [EntryPoint(name, f"several_{name}", "kdbench") for name in "abc"]
    known = Catalogue.load(hosts, points)
    hosts.close()
    assert {plugin.name: plugin.status for plugin in known.plugins} == {
        "a": "ok",
        "b": "broken",
        "c": "ok",
    }


REQUESTS = [
    {},
    {"defense.robustkd.lr": "0.5"},
    {"defense.robustkd.lr": "many"},
    {"defense.robustkd.lr": "nan"},
    {"defense.robustkd.lr": "-1"},
    {"defense.robustkd.lr": "true"},
    {"defense.robustkd.lrr": "1"},
    {"defense.robustkd.steps": "1.5"},
    {"attack.lba.patch_fraction": "1979-05-27"},
    {"attack.nothing.lr": "1"},
    {"attack.ckd.layers": "[1, 2]"},
    {"attack.lba.poison_rate": "[1]"},
]


@pytest.mark.parametrize("overrides", REQUESTS)
def test_both_answer_the_same(load, registry, overrides):
    known = load({})
    spec = RunSpec(
        attacks=("lba", "ckd.described"),
        defenses=("robustkd", "robustkd.eq15", "none"),
        distillers=("fkd", "kd"),
        pairs=(("wrn10_1", "wrn10_1"),),
        overrides=overrides,
    )

    def answer(answers):
        try:
            resolved = resolve(spec, answers)
        except KdbenchError as error:
            return type(error), str(error)
        return resolved.as_dict(), resolved.methods, resolved.origins

    assert answer(known) == answer(registry)


ANSWERS = {
    "steps": "    def steps(self):\n        import os\n        os._exit(5)\n",
    "opens": "    def steps(self):\n        open('/nowhere')\n",
    "raises": "    def steps(self):\n        raise ValueError('no steps today')\n",
    "lies": "    def steps(self):\n        return ['repair_student', 'win']\n",
    "chatters": "    def steps(self):\n        while True:\n            say(b'{\"part\": 1}\\n')\n",
}
DEFENSE = (
    "from kdbench.defense import Defense\nfrom kdbench.method import Info\n"
    "from kdbench.hookspecs import hookimpl\n"
    "class Foo(Defense):\n    info = Info('NAME', 't', 'a', 'v', 2020, 'http://x')\n"
    "STEPS@hookimpl\ndef kdbench_defenses():\n    return [Foo]\n"
)


def test_a_plugin_that_does_not_answer_fails_whoever_asks_for_it(load):
    known = load(
        {
            name: SAY + DEFENSE.replace("NAME", name).replace("STEPS", steps)
            for name, steps in ANSWERS.items()
        }
    )

    def settle(name):
        pairs = (("wrn10_1", "wrn10_1"),)
        return resolve(RunSpec(attacks=("lba",), defenses=(name,), pairs=pairs), known)

    for name, says in (
        ("steps", "exited with code 5 while it was asked"),
        ("raises", "ValueError: no steps today"),
        ("lies", "got 'win' for steps"),
        ("chatters", NONSENSE),
        ("opens", "'opens' of local file opens.py: No such file or directory: /nowhere"),
    ):
        with pytest.raises(ContractError, match=says) as caught:
            settle(name)
        assert name in str(caught.value)
    assert settle("robustkd").method("defense", "robustkd").steps == ("cleanse_teacher",)


def test_what_is_settled_needs_no_process_any_more(load):
    known = load({})
    spec = RunSpec(attacks=("lba",), pairs=(("wrn10_1", "wrn10_1"),))
    first = resolve(spec, known)
    known.close()
    assert resolve(spec, known) == first
    assert known.hosts._hosts == []
    # A question that is new starts a process again.
    other = spec.model_copy(update={"attacks": ("ckd",)})
    assert resolve(other, known).method("attack", "ckd").params


def test_nothing_is_left_of_the_processes(zygote, tmp_path, monkeypatch):
    hosts = Hosts(zygote)
    # The zygote may start here. What it makes then lives as long as it does.
    Catalogue.load(hosts, []).close()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(UsageError, match="unknown plugin"):
        Catalogue.load(hosts, [], PluginChoice(without=frozenset({"nothing"})))
    assert list(tmp_path.iterdir()) == []
    Catalogue.load(hosts, []).close()
    assert list(tmp_path.iterdir()) == []


def test_a_registry_settles_in_json(registry):
    spec = RunSpec(attacks=("ckd.described",), pairs=(("wrn10_1", "wrn10_1"),))
    params = resolve(spec, registry).method("attack", "ckd.described").params
    assert params == to_jsonable_python(params) == json.loads(json.dumps(params))
    wrong = {"attack.ckd.described.layers": "x"}
    with pytest.raises(ConfigError, match=r"attack\.ckd"):
        resolve(spec.model_copy(update={"overrides": wrong}), registry)


#: Runs commands in one process, and prints which modules of plugins it has imported then.
COMMANDS = """
import json, sys
import kdbench, kdbench.cli
from kdbench.bench.session import processes

shared = processes.start_zygote(computes=True)
end, shared.close = shared.close, lambda: None
processes.start_zygote = lambda computes: shared
codes = []
for arguments in json.loads(sys.argv[1]):
    try:
        codes.append(kdbench.cli.main(arguments, standalone_mode=False) or 0)
    except SystemExit as error:
        codes.append(error.code)
kdbench.methods()
end()
names = {name.partition(".")[0] for name in sys.modules}
plugins = sorted(name for name in names if name.startswith("kdbench_"))
print(json.dumps({"codes": codes, "plugins": plugins}), file=sys.stderr)
"""


def test_no_command_imports_a_plugin(tmp_path):
    (tmp_path / "own.py").write_text(GOOD.replace("NAME", "own"))
    file = ["--plugin-file", str(tmp_path / "own.py")]
    asked = [*file, "--attack", "own", "--pair", "wrn10_1-wrn10_1", "--no-controls"]
    asked += ["--train-size", "60", "--test-size", "40", "--store", str(tmp_path / "store")]
    asked += [f"--set={name}.epochs=1" for name in ("clean", "poison", "distill")]
    asked += ["--set=min_teacher_acc=0"]
    commands = [
        ["plugins", *file],
        ["list", *file],
        ["list", "attacks", "own", *file],
        ["list", "models", "wrn10_1", *file],
        ["check", "none", *file],
        ["plan", *asked],
        ["run", *asked, "--quiet", "--out", str(tmp_path / "out")],
    ]
    ran = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=False,
    )
    said = json.loads(ran.stderr.splitlines()[-1])
    assert said == {"codes": [0] * len(commands), "plugins": []}, ran.stderr


class Gaps:
    """Starts processes behind a wall without namespaces."""

    def __init__(self, zygote):
        self.zygote = zygote

    def start(self, entry, order, view, **options):
        view = dataclasses.replace(view, without=("namespaces", "landlock", "seccomp"))
        return self.zygote.start(entry, order, view, **options)


def test_a_run_says_first_what_its_wall_is_not(zygote, tmp_path):
    known = Catalogue.load(Hosts(Gaps(zygote)), choice=PluginChoice(only=frozenset({"kdbench"})))
    spec = RunSpec(
        attacks=("badnets",), pairs=(("wrn10_1", "wrn10_1"),), train_size=20, test_size=20
    )
    prepared, notes = prepare(spec, known, Store(tmp_path / "store")), []
    known.close()

    class Ended(Exception):
        pass

    class Listener(Quiet):
        def run_started(self, stages, to_run, cells, out, note=""):
            notes.append(note)
            raise Ended

    with pytest.raises(Ended):
        run(
            prepared,
            known,
            tmp_path / "run",
            Listener(),
            Store(tmp_path / "store"),
            LocalExecutor(zygote=zygote),
        )
    assert known.confinement.startswith("none")
    assert "This machine has no wall: a plugin can reach" in notes[0]
