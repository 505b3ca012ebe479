"""Plugins: which are wanted, loading them, finding methods by name, templates for a new one."""
