"""What is kept: artefacts under their keys, images, imported teachers."""
