"""The process that reads a foreign file. It is confined before it looks at the file.

It talks in lines of JSON. Standard input is first a request. Once the file looks like weights, a
line follows with the names, shapes and dtypes that they should have. Standard output is
``{"confined": how}``, ``{"kind": kind}``, ``{"ready": true}`` and ``{"done": facts}``, one after
the other. ``{"refused": why}`` may take the place of any of the last three. The weights go into the
file ``weights`` in the folder that the process may write.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from kdbench.errors import IntegrityError
from kdbench.untrusted.wall.confine import confine
from kdbench.untrusted.wall.limits import limit
from kdbench.untrusted.wall.parents import die_with_parent
from kdbench.untrusted.wall.paths import import_paths, importable, interpreter_paths

WEIGHTS = "weights"
_STARTING_CPU_S = 300


def main() -> None:
    """Serve one request and end."""
    request = json.loads(sys.stdin.readline())
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # From here on standard output goes to standard error: whatever a library prints must not be
    # taken for an answer.
    os.dup2(2, 1)
    die_with_parent()
    folder, memory = Path.cwd(), request["memory"]
    limit(memory, _STARTING_CPU_S + request["seconds"], memory)
    paths, listed = interpreter_paths(), importable(import_paths()).listed
    # Only now: what is above must take the system's temporary folder for private.
    os.environ["TMPDIR"], tempfile.tempdir = str(folder), None
    how = confine([*paths, Path(request["file"])], [folder], listed=listed)

    def say(**answer: Any) -> None:
        print(json.dumps(answer), file=channel, flush=True)

    say(confined=how)
    try:
        _serve(Path(request["file"]), folder, memory, say)
    except IntegrityError as error:
        say(refused=str(error))
    except MemoryError:
        # Without json and print, which allocate: there may be no memory left.
        os.write(channel.fileno(), b'{"memory": true}\n')


def _serve(path: Path, folder: Path, memory: int, say: Any) -> None:
    from kdbench.untrusted.weights.kinds import kind_of

    kind = kind_of(path)
    say(kind=kind)
    from kdbench.untrusted.weights import weights

    _warm_up()
    say(ready=True)
    expected = {
        name: (tuple(shape), dtype) for name, shape, dtype in json.loads(sys.stdin.readline())
    }
    limit(memory, address_space=True)
    loaded = weights.load_checkpoint(path, kind)
    try:
        read = weights.find(loaded, expected, kind)
        tensors, converted, absent = weights.to_weights(read.state, expected)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        if "allocate memory" in str(error):
            raise MemoryError from None
        # A tensor that torch cannot even look at is not sound. Which of its checks fails does not
        # matter.
        raise IntegrityError(
            f"its tensors cannot be read ({type(error).__name__}); save plain dense tensors"
        ) from None
    from safetensors.torch import save_file

    save_file(tensors, folder / WEIGHTS)
    say(
        done={
            "wrappers": read.unwrapped,
            "prefixes": read.prefixes,
            "converted": converted,
            "absent": absent,
            "words": read.words,
            "beside": read.beside,
            "left_out": read.left_out,
        }
    )


def _warm_up() -> None:
    """Import what torch and safetensors import late. The time limit for the file then counts the
    file only."""
    import io

    import torch
    from safetensors.torch import load, save

    held = io.BytesIO()
    torch.save({"x": torch.zeros(1)}, held)
    held.seek(0)
    torch.load(held, map_location="cpu", weights_only=True)
    load(save({"x": torch.zeros(1)}))
