"""What every method is tested on is the same for every check."""

import torch

from kdbench.testing import scene


def test_the_teacher_is_the_same_whoever_asks_first():
    """A check that runs on all cores may be the first that needs the teacher."""
    threads, weights = torch.get_num_threads(), []
    try:
        for count in (1, 4):
            torch.set_num_threads(count)
            torch.manual_seed(count)
            scene._trained.cache_clear()
            weights.append(scene.teacher().state_dict())
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    one, four = weights
    assert all(torch.equal(one[name], four[name]) for name in one)
