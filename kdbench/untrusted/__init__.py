"""Everything that touches a stranger's bytes: confined processes, weights, archives and text."""
