"""Which options accumulate gradients."""

from lightning.pytorch.callbacks import GradientAccumulationScheduler, Timer

from lightning_cifar.run.accumulation import accumulates


class Mine(GradientAccumulationScheduler):
    """A subclass of the user's."""


def test_subclasses_of_the_scheduler_accumulate():
    for callbacks, expected in (
        (None, False),
        ([Timer()], False),
        ([Timer(), Mine({1: 2})], True),
        (Mine({0: 2}), True),
    ):
        assert accumulates({"accumulate_grad_batches": 1, "callbacks": callbacks}) == expected
    assert accumulates({"accumulate_grad_batches": 2, "callbacks": None})
