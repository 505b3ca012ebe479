"""Names of the files by which a job and its process talk."""

TASK, OUTCOME, LOG = "task.json", "outcome.json", "log.txt"
