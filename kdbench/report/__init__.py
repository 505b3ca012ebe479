"""Tables written and read back, verdicts, ranking, comparison. Nothing here imports torch but
``pictures``."""
