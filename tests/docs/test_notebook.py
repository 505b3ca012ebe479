"""docs/notebook.ipynb runs as it stands."""

from __future__ import annotations

import json

import pytest

from tests.docs.shown import DOCS

NOTEBOOK = DOCS / "notebook.ipynb"


def code():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_it_holds_no_output_and_every_function_once():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]
    text = "\n".join(code())
    for name in ("run", "plan", "methods", "compare", "verify", "network", "trigger", "measure"):
        assert f"kdbench.{name}(" in text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_runs_from_top_to_bottom(tmp_path):
    reason = "needs nbclient and ipykernel: pip install -e '.[test-notebook]'"
    nbformat = pytest.importorskip("nbformat", reason=reason)
    nbclient = pytest.importorskip("nbclient", reason=reason)
    pytest.importorskip("ipykernel", reason=reason)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    shown = [
        output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])
    ]
    assert [data for data in shown if 'class="kdbench"' in data.get("text/html", "")]
    assert [data for data in shown if "image/png" in data]
