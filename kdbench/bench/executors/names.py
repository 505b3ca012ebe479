"""Names of the files by which a job and its process talk, and of the folder of its profile."""

TASK, OUTCOME, LOG, TRACES = "task.json", "outcome.json", "log.txt", "traces"
