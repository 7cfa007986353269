"""Make an image folder whose test images are held-out training images, to choose settings by.

    python benchmarks/held_out.py --root DIR --output HELD_OUT [--size N]

Links all but N images of DIR's ``train`` into HELD_OUT's ``train`` and the others into its ``test``: the stratified
split of ``--data.val_size N``. ``study.py`` and ``repeat`` can then compare settings with test-time augmentation and
intervals without reading the test set.
"""

import argparse
from pathlib import Path

import torch

from lightning_cifar.data.dataset import stratified_split
from lightning_cifar.sources.folder import list_images


def link(root: Path, output: Path, size: int) -> None:
    names, parts = list_images(root)
    files = parts["train"]
    split = stratified_split(torch.tensor([label for _, label in files]), size, seed=0)
    for part, chosen in zip(("train", "test"), split, strict=True):
        for path, label in (files[index] for index in chosen.tolist()):
            folder = output / part / names[label]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / Path(path).name).symlink_to(Path(path).resolve())
        print(f"{output / part}: {len(chosen):,} images")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="the image folder")
    parser.add_argument("--output", type=Path, required=True, help="a new directory")
    parser.add_argument("--size", type=int, default=10_000, help="images held out; default 10,000")
    known = parser.parse_args()
    link(known.root, known.output, known.size)
