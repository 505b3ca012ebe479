"""Datasets with one thing wrong each, as a plugin file. ``CAUGHT`` says which check finds it."""

from __future__ import annotations

import os
from dataclasses import replace

import torch

from kdbench.data import Augmentation, DatasetSource, TensorImages, finish
from kdbench.hookspecs import hookimpl

CLASSES = ("red", "green", "blue")


def draw(count, seed, side=16, classes=CLASSES):
    """Noise, with one channel brighter for each class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(classes)
    pixels = torch.randint(0, 100, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    pixels[torch.arange(count), labels % 3] += 120
    return TensorImages(pixels, labels)


def sound(request, **changes):
    """Nothing is wrong with it."""
    side = request.image_size or 16
    values = {
        "name": request.name,
        "train": draw(120, 2 * request.seed, side),
        "test": draw(60, 2 * request.seed + 1, side),
        "class_names": CLASSES,
        "mean": (0.3,) * 3,
        "std": (0.2,) * 3,
        "augmentation": Augmentation(pad=1, flip=True),
    }
    return finish(request, **{**values, **changes})


def label_too_large(request):
    labels = draw(120, 1).labels
    labels[0] = 7
    return sound(request, train=TensorImages(draw(120, 1).pixels, labels))


def not_square(request):
    train, test = draw(120, 1), draw(60, 2)
    return sound(
        request,
        train=TensorImages(train.pixels[:, :, :12], train.labels),
        test=TensorImages(test.pixels[:, :, :12], test.labels),
    )


def called_signs(request):
    return sound(request, name="signs-mine")


def own_digest(request):
    return replace(sound(request), train_digest="0" * 64)


def no_blue_tests(request):
    return sound(request, test=draw(60, 2, classes=CLASSES[:2]))


def named_twice(request):
    return sound(request, class_names=("red", "green", "red"))


def zeros_and_ones(request):
    train = draw(120, 1)
    return sound(request, train=TensorImages((train.pixels > 110).to(torch.uint8), train.labels))


def one_image(request):
    train = draw(120, 1)
    return sound(request, train=TensorImages(train.pixels[:1].repeat(120, 1, 1, 1), train.labels))


def mean_of_bytes(request):
    return sound(request, mean=(76.5,) * 3, std=(51.0,) * 3)


def tested_on_training(request):
    return sound(request, test=draw(120, 0).subset(torch.arange(60)))


def all_images(request):
    return sound(replace(request, train_size=None, test_size=None))


def all_classes(request):
    return sound(replace(request, num_classes=None))


def names_without_labels(request):
    data = sound(replace(request, class_names=None))
    return replace(data, class_names=request.class_names or data.class_names)


def one_size(request):
    return sound(replace(request, image_size=16))


def size_error(request):
    assert request.image_size in (None, 16), "one size only"
    return sound(request)


def reads_first(request):
    assert sorted(request.folder.iterdir())[0].exists()
    return sound(request)


def needs_nothing(request):
    return sound(request)


def writes(request):
    (request.folder / "cache").write_text("x")
    return sound(request)


def from_global_state(request):
    train = draw(120, 1)
    noise = torch.randint(0, 9, train.pixels.shape, dtype=torch.uint8)
    return sound(request, train=TensorImages(train.pixels + noise, train.labels))


def one_seed(request):
    return sound(replace(request, seed=0))


def seeds_anew(request):
    torch.manual_seed(request.seed)
    return sound(request)


def of_its_process(request):
    return sound(request, train=draw(120, os.getpid()))


def sets_the_environment(request):
    os.environ["OF_A_DATASET"] = "1"
    return sound(request)


#: A loader -> the check that must find what is wrong with it.
CAUGHT = {
    label_too_large: "usable",
    not_square: "usable",
    called_signs: "table_name",
    own_digest: "digests",
    no_blue_tests: "classes",
    named_twice: "classes",
    zeros_and_ones: "pixels",
    one_image: "pixels",
    mean_of_bytes: "mean_and_std",
    tested_on_training: "disjoint",
    all_images: "sizes",
    all_classes: "fewer_classes",
    names_without_labels: "class_order",
    one_size: "image_size",
    size_error: "image_size",
    reads_first: "folder",
    needs_nothing: "folder",
    writes: "folder_untouched",
    from_global_state: "same_seed",
    one_seed: "another_seed",
    seeds_anew: "random_state",
    of_its_process: "new_process",
    sets_the_environment: "surroundings",
}
FOLDERS = (reads_first, needs_nothing, writes)


@hookimpl
def kdbench_datasets():
    sources = {
        loader.__name__: DatasetSource(
            loader, folder="it holds something" if loader in FOLDERS else ""
        )
        for loader in (sound, *CAUGHT)
    }
    return {
        **sources,
        "misstated": DatasetSource(sound, train_size=500),
        "subset": DatasetSource(lambda request: sound(request, note="a part"), train_size=500),
    }
