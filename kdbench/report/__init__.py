"""Tables written and read back, verdicts, ranking, comparison. Only ``pictures`` imports torch."""
