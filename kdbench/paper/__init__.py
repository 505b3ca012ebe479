"""The RobustKD paper: its printed numbers, its tables and figures as requests, and our results
beside them."""
