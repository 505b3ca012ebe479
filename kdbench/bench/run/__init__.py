"""What carries a plan out: schedule, runner, rows, timings."""
