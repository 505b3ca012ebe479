"""``python -m kdbench``."""

import sys

if __name__ == "__main__":
    # Python has put the current folder first. A file there must not be taken for a module, as it
    # is not by the command kdbench.
    if not sys.flags.safe_path:
        del sys.path[0]
    from kdbench.cli import main

    main(prog_name="kdbench")
