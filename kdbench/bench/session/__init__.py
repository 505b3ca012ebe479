"""What a command of the command line and a function of :mod:`kdbench.api` do alike."""
