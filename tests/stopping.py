"""A progress that ends a training as a kill would."""


class Stopped(Exception):
    pass


class StopAfter:
    """Raises after so many steps."""

    def __init__(self, steps):
        self.left = steps

    def step(self, step):
        self.left -= 1
        if self.left == 0:
            raise Stopped
