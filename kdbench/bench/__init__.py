"""The machine: a request becomes a plan, the plan is computed, results are stored and become
rows."""
