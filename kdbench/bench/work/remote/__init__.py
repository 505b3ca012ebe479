"""Jobs on other machines: what travels, what a machine must have, and what works there."""
