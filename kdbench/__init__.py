"""kdbench: backdoors in knowledge distillation, attacks and defenses measured with controls."""

__version__ = "0.2.0"
