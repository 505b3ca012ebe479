"""Processes that give up their rights before they run anything of a plugin.

The coordinator asks :class:`~kdbench.untrusted.processes.client.Zygote` for a child. The child's
supervisor tells the coordinator how the child is walled in, and how it ends.
"""
