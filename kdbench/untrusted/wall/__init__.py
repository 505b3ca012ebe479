"""A process gives up what it does not need, before it runs anything of a stranger."""
