"""Where a store keeps things: a folder that nobody else can write, and whose path cannot be
guessed."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil

import pytest
from click.testing import CliRunner

from kdbench.bench.store.artefacts import Store
from kdbench.bench.store.care import garbage, verify
from kdbench.bench.store.vault import make_vault, open_vault, root_warning
from kdbench.cli import main
from kdbench.errors import ConfigError
from kdbench.report.columns import SCHEMA, columns_in
from tests.bench.store.test_store import KEY, keep
from tests.report.report_rows import cell

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_the_path_of_an_artefact_holds_a_secret(store, tmp_path):
    other = Store(tmp_path / "other")
    for each in (store, other):
        keep(each)
        assert [path.name for path in each.root.glob("**/model.safetensors")]
        assert re.fullmatch(r"vault\.[0-9a-f]{32}", each.vault.name)
        assert each.vault.stat().st_mode & 0o777 == each.root.stat().st_mode & 0o777 == 0o700
        assert each.folder(KEY).is_relative_to(each.vault)
    assert store.vault.name != other.vault.name
    # All that a process can guess the path of tells nothing.
    assert {path.name for path in store.root.iterdir()} - {store.vault.name} <= {
        "vault.lock",
        "jobs",
    }


def test_looking_makes_nothing(store):
    assert store.find(KEY) is None
    assert store.verified(KEY) is None
    assert list(store) == garbage(store, 0, 0) == []
    assert not store.root.exists()
    kept = keep(Store(store.root))
    assert store.find(KEY) == kept, "a store that was not there is looked for again"


def older(store):
    """Make the store as it was laid out before there was a vault."""
    for path in store.vault.iterdir():
        path.rename(store.root / path.name)
    store.vault.rmdir()
    return Store(store.root)


def test_an_older_store_is_taken_over(store):
    kept = keep(store)
    (store.vault / "teachers").mkdir(mode=0o775)
    (store.vault / "teachers").chmod(0o775)  # as some users' settings make it
    (store.vault / "timings.jsonl").write_text("{}\n")
    again = older(store)
    assert (store.root / "objects").exists()
    assert again.verified(KEY) == kept
    assert (again.vault / "timings.jsonl").exists()
    assert (again.vault / "teachers").exists()
    assert not (store.root / "objects").exists()
    assert not (store.root / "timings.jsonl").exists()


def test_what_a_killed_process_left_half_moved_is_moved_later(store):
    """Also what an older kdbench wrote afterwards."""
    kept, other = keep(store), keep(store, "cd" + "0" * 62)
    half = store.root / "objects" / "cd"
    half.parent.mkdir()
    (store.vault / "objects" / "cd").rename(half)
    shutil.copytree(store.vault / "objects" / "ab", store.root / "objects" / "ab")
    again = Store(store.root)
    assert (again.verified(KEY), again.verified("cd" + "0" * 62)) == (kept, other)
    assert again.vault == store.vault


def test_an_older_store_that_cannot_be_written_is_read_where_it_is(store, monkeypatch):
    kept = keep(store)
    again = older(store)

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("kdbench.bench.store.vault.make_vault", refused)
    assert again.verified(KEY) == kept


def _start(root, results):
    store = Store(root)
    store.check_writable()
    results.put(store.vault.name)


def test_two_processes_that_start_at_once_make_one_vault(store):
    keep(store)
    older(store)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=_start, args=(store.root, results)) for _ in range(8)]
    for worker in workers:
        worker.start()
    assert len({results.get(timeout=300) for _ in workers}) == 1
    for worker in workers:
        worker.join(300)
    assert Store(store.root).verified(KEY) is not None


def test_two_vaults_are_not_chosen_from(store):
    store.make_vault()
    (store.root / f"vault.{'0' * 32}").mkdir()
    with pytest.raises(ConfigError, match="2 vaults"):
        Store(store.root).find(KEY)


@pytest.mark.parametrize("which", ["vault", "jobs"])
@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_a_folder_that_others_may_write_is_refused(store, which, mode):
    store.check_writable()
    getattr(store, which).chmod(mode)
    with pytest.raises(ConfigError, match=r"other users may write .*--store"):
        Store(store.root).check_writable()


def test_an_older_store_that_others_may_write_is_refused(store):
    keep(store)
    again = older(store)
    (store.root / "objects").chmod(0o777)
    with pytest.raises(ConfigError, match=r"other users may write .*objects"):
        again.find(KEY)


@root_only
@pytest.mark.parametrize("which", ["vault", "jobs"])
def test_a_folder_of_another_user_is_refused(store, which, monkeypatch):
    store.check_writable()
    os.chown(getattr(store, which), 12345, -1)
    with pytest.raises(ConfigError, match="belongs to another user"):
        Store(store.root).check_writable()


def test_a_vault_or_jobs_that_is_a_link_is_refused(store, tmp_path):
    """Whoever may write the root could lead the store elsewhere."""
    store.check_writable()
    shutil.rmtree(store.jobs)
    (tmp_path / "elsewhere").mkdir()
    store.jobs.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="is a link"):
        Store(store.root).check_writable()
    vault = store.vault
    vault.rename(tmp_path / "moved")
    vault.symlink_to(tmp_path / "moved")
    with pytest.raises(ConfigError, match="is a link"):
        open_vault(store.root)


def test_a_root_that_others_may_write_is_warned_of(store):
    assert root_warning(store.root) == ""
    keep(store)
    assert root_warning(store.root) == ""
    store.root.chmod(0o777)
    assert "chmod go-w" in root_warning(store.root)
    verified = CliRunner().invoke(main, ["store", "verify", "--store", str(store.root)])
    assert verified.exit_code == 0
    assert "Other users can write the store" in verified.stderr
    if os.geteuid() == 0:
        os.chown(store.root, 12345, -1)
        assert "belongs to another user" in root_warning(store.root)


def test_a_root_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        make_vault(tmp_path / "file" / "below")


def forge(store, change):
    """Change a row and compute its seal anew, as whoever may write the vault can."""
    manifest = store.find(KEY)
    change(manifest.facts["row"])
    path = store.folder(KEY) / "manifest.json"
    path.write_bytes(manifest.encoded())


def keep_row(store, **values):
    about = {"kind": "row", "title": "row", "seconds": 0.0, "peak_mb": 0.0, "ingredients": {}}
    return store.publish(KEY, None, (), facts={"row": cell(**values)}, **about)


@pytest.mark.parametrize("status", ["ok", "failed"])
@pytest.mark.parametrize("schema", range(5, SCHEMA + 1))
def test_a_row_of_an_older_version_is_not_damaged(store, schema, status):
    """It has no column that came later."""
    keep_row(store, status=status)
    names = columns_in(schema)

    def age(row):
        for name in row.keys() - names.keys():
            del row[name]
        row["schema"] = schema

    forge(store, age)
    assert verify(store) == (1, [])


def test_a_row_without_a_column_of_its_schema_is_damaged(store):
    keep_row(store)
    forge(store, lambda row: row.pop("transfer_fraction"))
    assert verify(store) == (0, [KEY])


def test_a_row_whose_rates_and_counts_disagree_is_damaged(store):
    keep_row(store)
    assert verify(store) == (1, [])
    forge(store, lambda row: row.update(student_acc=99.9))
    assert store.find(KEY).facts["row"]["student_acc"] == 99.9, "its seal fits"
    where = ["--store", str(store.root)]
    refused = CliRunner().invoke(main, ["store", "verify", *where])
    assert refused.exit_code == 4
    assert "1 of 1 artefact: damaged" in refused.stderr
    assert list(store) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row.clear(),
        lambda row: row.update(n_test=None),
        lambda row: row.update(student_acc="90"),
        lambda row: row.update(student_acc_hits=[108]),
    ],
)
def test_a_row_that_is_none_is_damaged_or_empty(store, change):
    keep_row(store)
    forge(store, change)
    whole, damaged = verify(store)
    assert whole + len(damaged) == 1


def test_verify_says_that_it_finds_damage_and_not_forgery(store):
    """A forgery that is consistent cannot be found without computing it again."""
    keep_row(store)
    forge(store, lambda row: row.update(cell(student_acc=940)))
    done = CliRunner().invoke(main, ["store", "verify", "--store", str(store.root)])
    assert done.exit_code == 0
    assert "1 artefact, no damage found" in done.output
    assert "can also forge" in done.output
    assert "kdbench verify" in done.output
