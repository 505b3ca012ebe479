"""What Chen et al. (RobustKD, arXiv 2406.03409) printed, and their tables and figures as requests,
one TOML file each."""
