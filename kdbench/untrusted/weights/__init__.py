"""Weights from elsewhere: the one door through which a stranger's file comes in.

The file is read in a process of its own, which is confined, limited and stopped when it takes too
long, by readers that do not execute what they read. What that process hands over is plain
safetensors, and is checked again. Unsafe loading does not exist here: there is no option, parameter
or environment variable that trusts a file.
"""

from __future__ import annotations

from kdbench.untrusted.weights.door import Foreign, read_foreign

__all__ = ["Foreign", "read_foreign"]
