"""The RobustKD paper: its printed numbers, its tables and figures as requests, ours beside them."""
