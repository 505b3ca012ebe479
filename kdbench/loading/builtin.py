"""kdbench's own networks and datasets. They come in by the hooks that plugins use."""

from __future__ import annotations

from kdbench.data import DatasetSource
from kdbench.data.builtin import DATASETS
from kdbench.hookspecs import hookimpl
from kdbench.models import ModelSource
from kdbench.models.builtin import MODELS


@hookimpl
def kdbench_models() -> dict[str, ModelSource]:
    return dict(MODELS)


@hookimpl
def kdbench_datasets() -> dict[str, DatasetSource]:
    return dict(DATASETS)
