"""kdbench: backdoor attacks, distillers and defenses in knowledge distillation on one honest
field."""

__version__ = "0.2.0"
