"""Weights from elsewhere: the one way in for a stranger's file of weights.

A separate process reads the file. It is confined, limited, and stopped when it takes too long. Its
readers execute nothing from the file. It hands over plain safetensors, and these are checked again.
There is no unsafe loading: no option, parameter or environment variable makes kdbench trust a file.
"""

from __future__ import annotations

from kdbench.untrusted.weights.door import Foreign, read_foreign

__all__ = ["Foreign", "read_foreign"]
