"""Which plugins are wanted, loading one, finding methods by name, and templates for a new
plugin."""
