"""Libraries whose classification models are called ``LIBRARY/NAME``."""

LIBRARIES = ("timm", "torchvision")
