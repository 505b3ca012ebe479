"""Pages for the browser, and pages that were broken on purpose."""

from __future__ import annotations

import base64
import hashlib
import re

from PIL import Image

from kdbench.page.build import page_of
from kdbench.page.source import read_source
from tests.page.runs import mixed, write_run

RECORD = {
    "command": ["run", "--attack", "lba"],
    "spec": 'attacks = ["lba"]\n',
    "started": 1795777964.7,
    "plugins": {"attack.lba": "kdbench 1.0 abc"},
    "versions": {"torch": "2.15"},
    "stages": [
        {"kind": "clean", "title": "train", "key": "k", "status": "ok", "seconds": 3.0, "seed": 0}
    ],
}


def whole_run(folder, rows=None):
    """A run with everything that a page can show."""
    rows = mixed() if rows is None else rows
    for row in rows:
        if row["status"] == "timeout":
            row["reason"] = "repair x: it took longer than 60 s"
    run = write_run(folder, rows, RECORD, {"9-repair.txt": "repair x\n\nfirst\nlast line\n"})
    Image.effect_noise((200, 120), 60).save(run / "trigger-lba-wrn16_2-seed0.png")
    return run


def page(folder, rows=None):
    return page_of(read_source([whole_run(folder, rows)]))


def broken(text, old, new, count=-1):
    """The page with a mistake in it. Its policy allows its script, as that of a page does."""
    assert old in text, old
    text = text.replace(old, new, count)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return re.sub(r"sha256-[^']*", f"sha256-{digest}", text, count=1)
