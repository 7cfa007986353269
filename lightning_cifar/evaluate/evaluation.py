"""Accuracy, calibration, selective risk and worst mistakes of a classifier, from its logits.

Shapes: N images, K classes.
"""

from typing import Any

import torch
from lightning import Trainer
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_confusion_matrix

from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.errors import DivergenceError
from lightning_cifar.evaluate.scores import average_recalls, measure_calibration_error
from lightning_cifar.evaluate.subsets import evaluate_without_label_errors, evaluate_without_training_images
from lightning_cifar.train.classifier import ImageClassifier

BINS = 15  # for the expected calibration error, as in arXiv 1706.04599
MISTAKES = 24  # the most confident ones
MOST = 1000  # classes of a confusion matrix; that of 20,000 takes gigabytes
MANY = 10  # with more classes, top-5 accuracy is measured too
FEWEST_HELD_OUT = 100  # images to fit a temperature on
COVERAGES = [percent / 100 for percent in range(5, 101, 5)]


def evaluate_test(model: ImageClassifier, data: CIFAR10DataModule, trainer: Trainer) -> dict[str, Any]:
    """Return `evaluate_logits` of a finished test, with the accuracy without test-time augmentation and the mistakes.

    Args:
        model: has just been tested by a Trainer and holds the outputs; `DivergenceError` if these are NaN or infinite.
        data: the test's data. The temperature is the model's; if it has none, it is fitted on the validation images; if
            these are few, all classified right, or the test images, there is no temperature.
        trainer: predicts the validation images.
    """
    logits, plain, labels = model.test_outputs.compute()
    if bad := int((logits.softmax(1) + plain.softmax(1)).isnan().any(1).sum()):
        remedy = "use --trainer.precision 32-true, or an earlier checkpoint"
        raise DivergenceError(
            f"the model's outputs are NaN or infinite for {bad:,} of {len(labels):,} images: {remedy}"
        )
    temperature = None if model.temperature == 1 else model.temperature
    if temperature is None and data.val is not data.test and len(data.val.labels) >= FEWEST_HELD_OUT:
        data.trainer = trainer  # the test may have been sharded over processes; this one predicts all images
        batches: Any = trainer.predict(model, data.val_dataloader())
        probabilities = torch.cat(batches).clamp_min(torch.finfo(torch.float32).tiny)  # no log(0)
        if bool((probabilities.argmax(1) != data.val.labels).any()):  # else the best temperature is 0
            temperature = fit_temperature(probabilities.log(), data.val.labels)
    return {
        **evaluate_logits(logits, labels, data.dataset.class_names, temperature),
        "test_images": len(data.test),  # more than `images` in a partial test
        "accuracy_without_tta": float((plain.argmax(1) == labels).double().mean()),
        "without_label_errors": evaluate_without_label_errors(logits, labels),
        "without_training_images": evaluate_without_training_images(data.train, data.test, logits, labels),
        "mistakes": find_mistakes(logits, labels, data.dataset.class_names, data.dataset.test_files),
    }


def evaluate_logits(
    logits: Tensor, labels: Tensor, class_names: tuple[str, ...], temperature: float | None
) -> dict[str, Any]:
    """Return the metrics that ``test`` writes, from logits (N, K) of any scale and true classes (N,).

    Without a temperature (see `fit_temperature`), the metrics that need one are None.
    """
    logits, count = logits.float(), len(class_names)
    predicted = logits.argmax(1)
    # (true class, predicted class)
    confusion = multiclass_confusion_matrix(predicted, labels, count).tolist() if count <= MOST else None
    images, hits = (torch.bincount(one, minlength=count).tolist() for one in (labels, labels[predicted == labels]))
    recalls = [hit / total if total else None for hit, total in zip(hits, images, strict=True)]
    scaled = None if temperature is None else score_probabilities(logits / temperature, labels)
    return {
        "accuracy": sum(hits) / len(labels),
        "balanced_accuracy": average_recalls(recalls, images),
        "accuracy_top5": measure_top5(logits, labels) if count > MANY else None,
        "images": len(labels),
        **score_probabilities(logits, labels),
        "temperature": temperature,
        "temperature_scaled": scaled,
        "risk_coverage": risk_coverage(logits, labels),
        "per_class": {
            name: {"recall": recall, "images": total}
            for name, recall, total in zip(class_names, recalls, images, strict=True)
        },
        "confusion": confusion,
    }


def measure_top5(logits: Tensor, labels: Tensor) -> float:
    """Return the share of the images whose label is among the five classes with the highest logits."""
    return float((logits.topk(5).indices == labels[:, None]).any(1).double().mean())


def score_probabilities(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return the negative log-likelihood in nats (``loss``), the Brier score in [0, 2] and the calibration.

    The expected calibration error, in [0, 1], is the mean distance between confidence and accuracy in 15 bins of
    equal width, weighted by their images; ``reliability`` lists the bins.
    """
    probabilities = logits.softmax(1)
    truth = F.one_hot(labels, logits.shape[1])
    bins = bin_confidences(probabilities, labels)
    return {
        "loss": float(F.cross_entropy(logits, labels)),
        "brier": float((probabilities - truth).square().sum(1).mean()),
        "calibration_error": measure_calibration_error(bins),
        "reliability": bins,
    }


def bin_confidences(probabilities: Tensor, labels: Tensor) -> dict[str, list[float]]:
    """Return images, mean confidence and accuracy of each bin of confidence; both are 0 in an empty bin."""
    confidence, predicted = probabilities.double().max(1)
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    images = torch.bincount(bins, minlength=BINS)
    sums = [torch.bincount(bins, value, BINS) for value in (confidence, (predicted == labels).double())]
    means = [(total / images.clamp(min=1)).tolist() for total in sums]
    return {"images": images.tolist(), "confidence": means[0], "accuracy": means[1]}


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the T that minimises the loss of ``logits / T`` on held-out images (arXiv 1706.04599)."""
    scale = torch.zeros((), dtype=torch.float64, requires_grad=True)  # log T
    logits = logits.double()
    optimizer = torch.optim.LBFGS([scale], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(logits / scale.exp(), labels)
        value.backward()
        return value

    optimizer.step(loss)
    return float(scale.detach().exp())


def risk_coverage(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return the error rate (``risk``) on the most confident fraction (``coverage``) of the images.

    ``aurc`` is the mean risk over all fractions, the area under the risk-coverage curve (arXiv 1805.08206).
    """
    confidence, predicted = logits.double().softmax(1).max(1)  # in float32, many would be 1
    wrong = (predicted != labels)[confidence.argsort(descending=True, stable=True)]
    risks = wrong.cumsum(0) / torch.arange(1, len(wrong) + 1, device=wrong.device)
    counts = [max(1, round(coverage * len(wrong))) for coverage in COVERAGES]
    return {"coverage": COVERAGES, "risk": [float(risks[count - 1]) for count in counts], "aurc": float(risks.mean())}


def find_mistakes(
    logits: Tensor, labels: Tensor, class_names: tuple[str, ...], files: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """Return the 24 most confident wrong predictions: ``index`` is the position in the test set and its ``files``."""
    probabilities = logits.float().softmax(1)
    confidence, predicted = probabilities.max(1)
    order = confidence.argsort(descending=True, stable=True)
    worst = order[(predicted != labels)[order]][:MISTAKES]
    columns = (worst, labels[worst], predicted[worst], confidence[worst], probabilities[worst, labels[worst]])
    return [
        {
            "index": index,
            **({"file": files[index]} if files else {}),
            "label": class_names[label],
            "prediction": class_names[prediction],
            "probability": probability,
            "probability_of_label": of_label,
        }
        for index, label, prediction, probability, of_label in zip(
            *(column.tolist() for column in columns), strict=True
        )
    ]
