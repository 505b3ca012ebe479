"""A process gives up what it does not need, before it runs anything of a stranger.

``build.py`` puts the layers together: namespaces, Landlock and a filter of system calls. Limits and
a canary, which tries what should fail, go with them.
"""
