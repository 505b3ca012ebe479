"""Where jobs are computed: see kdbench.bench.job for the boundary."""
