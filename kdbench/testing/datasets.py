"""The checks of a dataset.

Its images are loaded as a run loads them, with what a request may ask for.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from kdbench._counted import counted
from kdbench.data import Dataset, ImageSet
from kdbench.data.common import split_digest
from kdbench.data.files import image_files, save_images
from kdbench.data.spelling import taken_name
from kdbench.errors import ConfigError, DatasetError, KdbenchError
from kdbench.loading.images import ImagesFacts, read_dataset
from kdbench.testing.checks import NotApplicableError, check, ensure
from kdbench.testing.pictures import fingerprints
from kdbench.testing.subjects import DatasetSubject

_FINISH = "return what kdbench.data.finish returns"
#: Of the test images, that may be training images. Some official datasets hold a few.
_MOST_COMMON = 0.01
#: Images on disk that are looked at. It would take hours to decode all of ImageNet.
_MOST_DECODED = 2000
_SPLITS = ("train", "test")


@check("it is loaded, and a run can take what it returns", "dataset")
def usable(subject: DatasetSubject) -> None:
    data = subject.whole()
    with tempfile.TemporaryDirectory() as folder:
        for split in _SPLITS:
            save_images(getattr(data, split), Path(folder) / f"{split}.safetensors")
        try:
            facts = ImagesFacts.of(subject.name, data)
            read_dataset(subject.request(), facts.model_dump(mode="json"), Path(folder))
        except (KdbenchError, ValueError) as error:
            ensure(False, str(error))
    height, width = data.train.shape[1:]
    ensure(height == width, f"images are {height}x{width} pixels; cut or scale them to a square")


@check("its name in the tables is not that of another dataset", "dataset")
def table_name(subject: DatasetSubject) -> None:
    name = subject.whole().name
    ensure(
        not taken_name(name, subject.name, subject.others),
        f"it calls itself {name!r}, and another dataset has that name; begin it with "
        f"{subject.name!r}",
    )


@check("its digests are those of its images, so another image gives another digest", "dataset")
def digests(subject: DatasetSubject) -> None:
    for data in (subject.whole(), subject.few()):
        names = (subject.name, data.class_names)
        augmentation = (data.augmentation.pad, data.augmentation.flip)
        train = split_digest((*names, data.mean, data.std, *augmentation), data.train)
        test = split_digest(names, data.test)
        for what, is_, wanted in (
            ("train_digest", data.train_digest, train),
            ("test_digest", data.test_digest, test),
        ):
            ensure(is_ == wanted, f"{what} does not follow from the images; {_FINISH}")


@check("every class has a name of its own, and images in both splits", "dataset")
def classes(subject: DatasetSubject) -> None:
    data = subject.whole()
    names = data.class_names
    ensure(data.num_classes >= 2, "it has one class; there must be two at least")
    ensure(len(set(names)) == len(names), "two classes have one name; name them apart")
    for split in _SPLITS:
        missing = set(range(data.num_classes)) - set(getattr(data, split).labels.tolist())
        ensure(
            not missing,
            f"no {split} image is of {', '.join(names[k] for k in sorted(missing)[:5])}; count "
            "labels from 0, and put images of each class into both splits",
        )


@check("its pixels use the range from 0 to 255, and images differ", "dataset")
def pixels(subject: DatasetSubject) -> None:
    for split in _SPLITS:
        images: ImageSet = getattr(subject.whole(), split)
        rows = _some_rows(images)
        brightest = max(float(images.read(part).max()) for part in rows.split(256))
        ensure(
            brightest > 1.5 / 255,
            f"no pixel of the {split} images is above 1 of 255; multiply images in [0, 1] by 255 "
            "before they become uint8",
        )
        ensure(
            len(set(_prints(images, rows))) > 1, f"all {split} images are the same; read each one"
        )


@check("mean and std are numbers for pixels in [0, 1]", "dataset")
def mean_and_std(subject: DatasetSubject) -> None:
    data = subject.whole()
    fits = all(0 <= m <= 1 for m in data.mean) and all(0 < s <= 1 for s in data.std)
    ensure(fits, f"mean is {data.mean} and std {data.std}; divide numbers of 0 to 255 by 255")


@check("the test images are no training images, but for one in a hundred", "dataset")
def disjoint(subject: DatasetSubject) -> None:
    data = subject.whole()
    files = [{os.path.realpath(f) for f in image_files(part)} for part in (data.train, data.test)]
    if all(files):
        common, total = len(files[0] & files[1]), len(files[1])
    else:
        train, test = (_prints(part, torch.arange(len(part))) for part in (data.train, data.test))
        known = set(train)
        common, total = sum(image in known for image in test), len(test)
    ensure(
        common <= _MOST_COMMON * total,
        f"{common} of {counted(total, 'test image')} are training images, too; "
        "take each image into one split",
    )


@check("as many images are given as are asked for, every class in proportion", "dataset")
def sizes(subject: DatasetSubject) -> None:
    whole = subject.whole()
    for split in _SPLITS:
        given: ImageSet = getattr(whole, split)
        wanted = max(1, len(given) // 2)
        part: ImageSet = getattr(subject.few(**{f"{split}_size": wanted}), split)
        gave = counted(len(part), "image")
        ensure(len(part) == wanted, f"{split}_size={wanted} gave {gave}; {_FINISH}")
        lost = [
            whole.class_names[k]
            for k in range(whole.num_classes)
            if int((given.labels == k).sum()) >= 4 and not int((part.labels == k).sum())
        ]
        ensure(not lost, f"half of the {split} images hold none of {', '.join(lost)}; {_FINISH}")


@check("with fewer classes it has the first ones, and with more it refuses", "dataset")
def fewer_classes(subject: DatasetSubject) -> None:
    whole = subject.whole()
    if whole.num_classes > 2:
        data = subject.few(num_classes=2, train_size=2, test_size=2)
        ensure(
            data.num_classes == 2 and data.class_names == whole.class_names[:2],
            f"num_classes=2 gave the classes {data.class_names}; {_FINISH}",
        )
        for split in _SPLITS:
            labels = set(getattr(data, split).labels.tolist())
            ensure(
                labels <= {0, 1},
                f"with num_classes=2 {split} labels are {sorted(labels)}; {_FINISH}",
            )
    try:
        subject.few(num_classes=1_000_000)
    except ConfigError:
        return
    ensure(False, f"a million classes are not refused; {_FINISH}")


@check("its classes are counted in the order that is asked for", "dataset")
def class_order(subject: DatasetSubject) -> None:
    whole = subject.few()
    order = tuple(reversed(whole.class_names))
    data = subject.few(class_names=order)
    ensure(
        data.class_names == order,
        f"the classes are in the order {data.class_names}, and not as asked for; {_FINISH}",
    )
    for split in _SPLITS:
        before, after = (_named(one, split) for one in (whole, data))
        moved = sum(name not in before[image] for image, name in after if image in before)
        ensure(
            not moved,
            f"in another order of classes {moved} {split} images have another class; {_FINISH}",
        )


def _named(data: Dataset, split: str) -> _Named:
    """The class of each image of a split."""
    images: ImageSet = getattr(data, split)
    prints = _prints(images, torch.arange(len(images)))
    return _Named(zip(prints, (data.class_names[k] for k in images.labels.tolist()), strict=True))


class _Named:
    """(image, name of its class), and the names by image. One image may have two names."""

    def __init__(self, pairs: Iterator[tuple[bytes, str]]) -> None:
        self._pairs = list(pairs)
        self._names: dict[bytes, set[str]] = {}
        for image, name in self._pairs:
            self._names.setdefault(image, set()).add(name)

    def __iter__(self) -> Iterator[tuple[bytes, str]]:
        return iter(self._pairs)

    def __contains__(self, image: object) -> bool:
        return image in self._names

    def __getitem__(self, image: bytes) -> set[str]:
        return self._names[image]


@check("its images have the size that is asked for, or another size is refused", "dataset")
def image_size(subject: DatasetSubject) -> None:
    own = subject.whole().image_size
    other = 24 if own != 24 else 32
    try:
        data = subject.few(image_size=other)
    except Exception as error:
        ensure(
            isinstance(error, ConfigError),
            f"image_size={other} ends in {type(error).__name__}: {error}; raise "
            "kdbench.errors.ConfigError, which says what sizes there are",
        )
        return
    for split in _SPLITS:
        shape = getattr(data, split).shape
        ensure(
            shape == (3, other, other),
            f"image_size={other} gave {split} images {shape}; scale them to request.image_size, or "
            "raise kdbench.errors.ConfigError",
        )


@check("what its source says of it holds, or its note says why not", "dataset")
def stated_numbers(subject: DatasetSubject) -> None:
    source, data = subject.source, subject.whole()
    loaded = {
        "num_classes": data.num_classes,
        "image_size": data.image_size,
        "train_size": len(data.train),
        "test_size": len(data.test),
    }
    stated = {name: getattr(source, name) for name in loaded}
    if all(value is None for value in stated.values()):
        raise NotApplicableError("its DatasetSource states no number")
    wrong = [
        f"{name} is {loaded[name]} and not {value}"
        for name, value in stated.items()
        if value not in (None, loaded[name])
    ]
    ensure(
        not wrong or data.note,
        f"{'; '.join(wrong)}; mend the DatasetSource, or say in note that it is not the whole "
        "dataset",
    )


@check("a folder that is missing or empty ends in an error of kdbench", "dataset")
def folder(subject: DatasetSubject) -> None:
    if not subject.source.folder:
        raise NotApplicableError("it reads no folder")
    with tempfile.TemporaryDirectory() as parent:
        for what, path in (("missing", Path(parent) / "absent"), ("empty", Path(parent))):
            try:
                subject.from_folder(path)
            except (DatasetError, ConfigError):
                continue
            except Exception as error:
                ensure(
                    False,
                    f"a folder that is {what} ends in {type(error).__name__}: {error}; raise "
                    "kdbench.errors.DatasetError, which says what should be there",
                )
            ensure(False, f"a folder that is {what} is not refused; raise DatasetError")


@check("what lies in its folder is left as it is", "dataset")
def folder_untouched(subject: DatasetSubject) -> None:
    root = subject.root()
    if root is None:
        raise NotApplicableError("it reads no folder")
    before = _listing(root)
    subject.few()
    ensure(
        _listing(root) == before, f"a load changed what lies in {root}; write to request.cache_dir"
    )


def _listing(root: Path) -> set[tuple[str, int, int]]:
    """Path, bytes and time of change of every file."""
    files = [root] if root.is_file() else [path for path in root.rglob("*") if path.is_file()]
    return {(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def _some_rows(images: ImageSet) -> torch.Tensor:
    """All rows of a set in memory. Of one on disk some at random."""
    if not image_files(images):
        return torch.arange(len(images))
    return torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:_MOST_DECODED]


def _prints(images: ImageSet, rows: torch.Tensor) -> list[bytes]:
    return [one for part in rows.split(256) for one in fingerprints(images.read(part))]
