"""What W&B shows beside numbers: of training its curves; of a test its confusions, classes and worst mistakes."""

from pathlib import Path
from typing import Any

import numpy as np

from lightning_cifar.train.wandb import SafeLogger

NUMBERS = ("accuracy", "accuracy_without_tta", "loss", "brier", "calibration_error", "temperature", "images")
ENLARGED = 4  # times, by which 32 pixels can be looked at


def show_curves(logger: SafeLogger, file: Path) -> None:
    """The picture of a run's curves."""

    def show() -> None:
        import wandb

        logger.experiment.log({"train/curves": wandb.Image(str(file))})

    logger.attempt(show)


def show_test(logger: SafeLogger, result: dict[str, Any], images: np.ndarray | None, picture: Path) -> None:
    """The result of `tested`.

    Args:
        logger: of the W&B run.
        result: see above; its numbers go to the run's summary.
        images: of its mistakes, uint8 (N, H, W, 3); None where there are none.
        picture: what `draw_evaluation` made of it.
    """

    def show() -> None:
        import wandb

        names = [*result["per_class"]]
        cells = [
            (true, predicted, count)
            for true, row in enumerate(result["confusion"])
            for predicted, count in enumerate(row)
        ]
        accuracies = [[name, one["accuracy"]] for name, one in result["per_class"].items()]
        large: Any = [] if images is None else images.repeat(ENLARGED, 1).repeat(ENLARGED, 2)
        columns = list(result["mistakes"][0]) if result["mistakes"] else []
        mistakes = [[wandb.Image(pixels), *one.values()] for pixels, one in zip(large, result["mistakes"], strict=True)]
        run = logger.experiment
        run.summary.update({f"test/{name}": result[name] for name in NUMBERS})
        run.log(
            {
                "test/confusion": wandb.plot.confusion_matrix(
                    y_true=[true for true, _, count in cells for _ in range(count)],
                    preds=[predicted for _, predicted, count in cells for _ in range(count)],
                    class_names=names,
                    title="confusions",
                ),
                "test/classes": wandb.plot.bar(
                    wandb.Table(["class", "accuracy"], accuracies), "class", "accuracy", "accuracy of each class"
                ),
                "test/mistakes": wandb.Table(["image", *columns], mistakes),
                "test/picture": wandb.Image(str(picture)),
            }
        )

    logger.attempt(show)
