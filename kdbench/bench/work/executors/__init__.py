"""Where jobs are computed: see kdbench.bench.work.job for the boundary."""
