"""Requests that no person writes end with a message and exit code 2."""

from __future__ import annotations

import json
import os

import pytest
from click.testing import CliRunner

from kdbench._files import read_record
from kdbench.bench.request.spec import RunSpec
from kdbench.bench.request.specfile import read_spec, write_spec
from kdbench.bench.run.timings import FILE, Timings
from kdbench.bench.run.verify import read_request
from kdbench.bench.session.folders import check_out
from kdbench.cli import main
from kdbench.errors import ConfigError
from kdbench.untrusted.documents import parse_json, parse_toml
from tests.untrusted.pipes import pipe

ASKED = 'attacks = ["badnets"]\npairs = ["wrn16_2-wrn16_1"]\n'
HOSTILE = {
    "nested lists": ("seeds = " + "[" * 20_000 + "]" * 20_000, "nested too deep"),
    "nested tables": ("a = " + "{a=" * 5000 + "1" + "}" * 5000, "nested too deep"),
    "a deep list": ("a = " + "[" * 60 + "]" * 60, "nested too deep"),
    "a key of many parts": (
        "[set]\n" + "a." * 20_000 + "a = 1",
        "line 2 has more than 1000 points",
    ),
    "quoted parts": ('"a" . ' * 20_000 + "a = 1", "line 1 has more than 1000 points"),
    "a header of many parts": ("[" + "a." * 20_000 + "a]", "more than 1000 points"),
    "a long number": ("seeds = [" + "1" * 5000 + "]", "Exceeds the limit"),
    "a wide number": ("seeds = [0x" + "f" * 40 + "]", "more than 64 bits"),
    "a date": (ASKED + "[set]\ndistill.epochs = 1979-05-27", "1979-05-27 is a date"),
    "a time": ("seeds = [07:32:00]", "07:32:00 is a date or a time"),
    "no text": ("\ud800", "is not TOML that a request can be"),
    "a number for a folder": (ASKED + "data_dir = 3", "data_dir must be a text"),
    "many bytes": ("#" * ((1 << 18) + 1), "it is larger than 256 KiB"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_spec_is_refused_with_a_message(tmp_path, name):
    text, words = HOSTILE[name]
    (tmp_path / "s.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
    result = CliRunner().invoke(main, ["plan", "--spec", str(tmp_path / "s.toml")])
    assert result.exit_code == 2, result.output
    assert words in " ".join(result.output.split())


def test_a_spec_that_is_no_file(tmp_path):
    with pipe(tmp_path / "pipe") as path, pytest.raises(ConfigError, match="no regular file"):
        read_spec(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_spec(tmp_path)


@pytest.mark.parametrize("raw", ["[" * 20_000, "{a=" * 5000, "1" * 5000, "a." * 2000])
def test_a_hostile_value_of_an_option(raw):
    arguments = ["plan", "--attack", "badnets", "--pair", "wrn16_2-wrn16_1"]
    result = CliRunner().invoke(main, [*arguments, "--set", f"distill.epochs={raw}"])
    assert result.exit_code == 2
    assert "distill.epochs" in result.output


@pytest.mark.parametrize("text", ["\x1b[2J\x9b\x7f\u202e", "a\nb = 2", "[" * 3000, "1 # x", "ü😀"])
def test_a_spec_that_is_written_is_read_and_obeyed_by_no_terminal(tmp_path, text):
    spec = RunSpec(
        attacks=("badnets",),
        defenses=("none",),
        pairs=(("a", "b"),),
        datasets=(f"imagefolder:{text}",),
        overrides={"distill.epochs": text},
    )
    written = write_spec(spec)
    assert all(c.isprintable() or c == "\n" for c in written)
    (tmp_path / "s.toml").write_text(written, encoding="utf-8")
    again = read_spec(tmp_path / "s.toml")
    assert again["datasets"] == [f"imagefolder:{text}"]
    assert again["overrides"]["distill.epochs"] in (text, "1")


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"9" * 5000, b"\xff", b"null", b'{"config": []}', b"1e999"]
)
def test_a_record_of_a_run_that_is_none(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"no run\.json that can be read"):
        read_request(tmp_path)
    with pytest.raises(ConfigError, match="already holds results of another request"):
        check_out(tmp_path, RunSpec(attacks=("badnets",), defenses=("none",), pairs=(("a", "b"),)))


def test_a_folder_of_an_older_kdbench_is_taken_up(tmp_path):
    """Its record lacks the fields that came since."""
    spec = RunSpec(attacks=("badnets",), defenses=("none",), pairs=(("a", "b"),))
    request = spec.model_dump(mode="json")
    del request["class_names"]
    (tmp_path / "run.json").write_text(json.dumps({"config": {"request": request}}))
    check_out(tmp_path, spec)
    with pytest.raises(ConfigError, match="another request"):
        check_out(tmp_path, spec.model_copy(update={"class_names": ("y", "x")}))
    del request["attacks"]
    (tmp_path / "run.json").write_text(json.dumps({"config": {"request": request}}))
    with pytest.raises(ConfigError, match="another request"):
        check_out(tmp_path, spec)


def test_a_record_that_is_a_pipe_or_has_no_end(tmp_path):
    with pipe(tmp_path / "run.json"), pytest.raises(ConfigError, match=r"no run\.json"):
        read_request(tmp_path)
    with (tmp_path / "large").open("wb") as file:
        file.truncate((1 << 29) + 1)
    with pytest.raises(OSError, match="larger than 512 MiB"):
        read_record(tmp_path / "large")
    if os.path.exists("/proc/self/pagemap"):
        (tmp_path / "endless").symlink_to("/proc/self/pagemap")
        with pytest.raises(OSError, match="more bytes than its size says"):
            read_record(tmp_path / "endless")


def test_times_of_stages_that_cannot_be_read_are_passed_over(tmp_path):
    line = '{"title": "t", "key": "k", "seed": 0, "seconds": 1, "bytes": %s}\n'
    (tmp_path / FILE).write_text("[" * 100_000 + "\n" + line % "1e999" + line % ("9" * 5000))
    assert Timings(tmp_path)._rough == {}


def test_what_is_wrong_with_a_document_is_a_value_error():
    wrong = {"[" * 100_000: "too deep", "9" * 5000: "digits", "{": "line 1|end of document"}
    for text, words in wrong.items():
        with pytest.raises(ValueError, match=words):
            parse_json(text)
        with pytest.raises(ValueError, match=words):
            parse_toml(f"a = {text}")
    for value in (-(1 << 63), (1 << 63) - 1, 1.5, True, "x", [1, [2]], {"b": "1979-05-27"}):
        text = "{b = '1979-05-27'}" if isinstance(value, dict) else str(value).lower()
        assert parse_toml(f"a = {text!r}" if value == "x" else f"a = {text}") == {"a": value}
