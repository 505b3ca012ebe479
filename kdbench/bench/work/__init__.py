"""What computes: the kinds of stage, the job of one, and the executors that run jobs."""
