"""Balanced sampling: each class equally often, images of a class in turn, whatever the batches, shards and loaders."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from lightning_cifar import CIFAR10DataModule, main
from lightning_cifar.data.dataset import ImageSet
from lightning_cifar.data.loader import BatchLoader, Order, draw_balanced
from lightning_cifar.distributed import Shard
from lightning_cifar.train.checkpoint import load_checkpoint

COUNTS = {"rare": [90, 9, 1], "one class": [20], "with a gap": [10, 0, 31], "more classes than draws": [1] * 3 + [2]}


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
def test_classes_are_drawn_equally_often_and_their_images_in_turn(counts):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels))]
    present, seen = sum(count > 0 for count in counts), Counter()
    for epoch in range(7):
        drawn = draw_balanced(labels, 3, epoch)
        assert len(drawn) == len(labels)
        assert torch.equal(drawn, drawn.sort().values)
        by_class = torch.bincount(labels[drawn], minlength=len(counts))[torch.tensor(counts) > 0]
        assert by_class.max() - by_class.min() <= 1
        seen.update(drawn.tolist())
        for label in labels.unique():
            times = [seen[index] for index in (labels == label).nonzero().flatten().tolist()]
            assert max(times) - min(times) <= 1  # over all epochs so far
    by_class = torch.bincount(labels, torch.tensor([seen[index] for index in range(len(labels))], dtype=torch.float64))
    by_class = by_class[by_class > 0]
    assert len(by_class) == present
    assert by_class.max() - by_class.min() <= 1


def test_draws_depend_only_on_seed_and_epoch():
    labels = torch.tensor([0] * 50 + [1] * 5)
    drawn = {(seed, epoch): draw_balanced(labels, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)}
    torch.manual_seed(123)  # must have no effect
    assert drawn[1, 1] == draw_balanced(labels, 1, 1).tolist()
    assert len({tuple(one) for one in drawn.values()}) == 4


def test_classes_of_one_size_are_only_shuffled():
    data = ImageSet(torch.zeros(40, 3, 4, 4, dtype=torch.uint8), torch.arange(40) % 4)
    for epoch in (0, 5):
        loaders = [BatchLoader(data, 7, seed=2, balanced=balanced, positions=True) for balanced in (True, False)]
        for loader in loaders:
            loader.sampler.set_epoch(epoch)
        for one, other in zip(*loaders, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_shards_and_a_resume_give_the_same_batches():
    data = ImageSet(
        torch.arange(60, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4), torch.arange(60) // 50
    )
    options = {"seed": 1, "balanced": True, "positions": True}
    whole = list(BatchLoader(data, 6, **options))
    halves = [list(BatchLoader(data, 6, **options, shard=Shard(rank, 2))) for rank in range(2)]
    for batch, *shards in zip(whole, *halves, strict=True):
        assert all(torch.equal(torch.cat(parts), tensor) for *parts, tensor in zip(*shards, batch, strict=True))
    resumed = BatchLoader(data, 6, **options)
    resumed.load_state_dict({"batch": 4})
    for one, other in zip(resumed, whole[4:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_an_image_that_is_drawn_twice_is_augmented_twice(image_folder):
    """Each position has its own draws: 12 cats and 6 dogs give 9 of each."""
    data = CIFAR10DataModule("folder", root=str(image_folder), balanced=True)
    data.setup("fit")
    positions, images = Order(len(data.train), 0, labels=data.train.labels).draw()
    assert sorted(positions.tolist()) == list(range(18))
    assert (data.train.labels[images] == 1).sum() == 9
    assert len(images.unique()) < 18


@pytest.mark.slow
def test_what_has_no_effect_on_classes_of_one_size_gets_a_line(image_folder, capsys):
    for cat in sorted((image_folder / "train/cat").iterdir())[6:]:
        cat.unlink()
    args = ["--data.dataset", "folder", "--data.root", str(image_folder), "--trainer.max_epochs", "1"]
    args += ["--model.class_weights", "balanced", "--data.balanced", "true", "--model.widths", "[4,4,8,8,8]"]
    assert main(["fit", *args, "--trainer.log_every_n_steps", "1", "--run_dir", "run"]) == 0
    out = capsys.readouterr().out
    for option in ("model.class_weights", "data.balanced"):
        assert f"note: --{option} has no effect: every class has 6 training images" in out


def test_two_remedies_at_once_get_a_line(image_folder, capsys):
    args = ["--data.dataset", "folder", "--data.root", str(image_folder), "--trainer.max_steps", "1"]
    args += ["--model.class_weights", "balanced", "--data.balanced", "true", "--model.widths", "[4,4,8,8,8]"]
    assert main(["fit", *args, "--trainer.log_every_n_steps", "1", "--run_dir", "run"]) == 0
    assert (
        "note: --data.balanced draws rare classes more often and --model.class_weights weighs them"
        in capsys.readouterr().out
    )


@pytest.mark.slow
@pytest.mark.parametrize("in_memory", ["true", "false"])
def test_training_draws_each_class_equally_often(image_folder, in_memory, monkeypatch):
    seen = Counter()
    augment = CIFAR10DataModule.on_after_batch_transfer

    def count(data, batch, dataloader_idx):
        if data.trainer.training:
            seen.update(batch[1].tolist())
        return augment(data, batch, dataloader_idx)

    monkeypatch.setattr(CIFAR10DataModule, "on_after_batch_transfer", count)
    args = ["--data.dataset", "folder", "--data.root", str(image_folder), "--data.in_memory", in_memory]
    args += ["--data.num_workers", "0", "--data.batch_size", "4", "--model.widths", "[4,4,8,8,8]"]
    args += ["--data.balanced", "true", "--trainer.max_epochs", "2", "--trainer.log_every_n_steps", "1"]
    assert main(["fit", *args, "--run_dir", "run"]) == 0
    assert seen == {0: 18, 1: 18}
    assert load_checkpoint(Path("run/checkpoints/last.ckpt"))["datamodule_hyper_parameters"]["balanced"] is True
