"""What is known of a classifier from its logits: accuracy, and how far its probabilities can be trusted.

Shapes: N images, K classes.
"""

from typing import Any

import torch
from lightning import Trainer
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_confusion_matrix

from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.train.classifier import ImageClassifier

BINS = 15  # of the expected calibration error, as usual (arXiv 1706.04599)
MISTAKES = 24  # that `test` keeps, the most confident ones
COVERAGES = [percent / 100 for percent in range(5, 101, 5)]


def tested(model: ImageClassifier, data: CIFAR10DataModule, trainer: Trainer) -> dict[str, Any]:
    """`evaluation` of what ``model`` kept of its test, and its accuracy without test-time augmentation.

    Args:
        model: just tested by a Trainer.
        data: what it was tested on. The temperature is fitted on its validation images; where there are none, since
            all were trained on (``held_out`` is ``test``), there is no temperature.
        trainer: predicts them.
    """
    logits, plain, labels = model.test_outputs.compute()
    temperature = None
    if data.hparams["held_out"] == "val":
        data.trainer = trainer  # several processes may have tested, each its part; this one predicts all
        batches: Any = trainer.predict(model, data.val_dataloader())
        probabilities = torch.cat(batches).clamp_min(torch.finfo(torch.float32).tiny)  # 0 has no logarithm
        temperature = fit_temperature(probabilities.log(), data.val.labels)
    result = evaluation(logits, labels, data.dataset.class_names, temperature)
    return {
        **result,
        "accuracy_without_tta": float((plain.argmax(1) == labels).double().mean()),
        "mistakes": mistakes(logits, labels, data.dataset.class_names),
    }


def evaluation(
    logits: Tensor, labels: Tensor, class_names: tuple[str, ...], temperature: float | None
) -> dict[str, Any]:
    """Everything that ``test`` tells of logits (N, K) and labels (N,).

    Args:
        logits: of any scale; probabilities are their softmax.
        labels: true classes.
        class_names: K of them.
        temperature: see `fit_temperature`; None: what needs it is None.
    """
    logits, count = logits.float(), len(class_names)
    predicted = logits.argmax(1)
    confusion = multiclass_confusion_matrix(predicted, labels, count)  # (true class, predicted class)
    counts, correct = confusion.sum(1).tolist(), confusion.diag().tolist()
    scaled = None if temperature is None else trust(logits / temperature, labels)
    return {
        "accuracy": sum(correct) / sum(counts),
        "images": sum(counts),
        **trust(logits, labels),
        "temperature": temperature,
        "temperature_scaled": scaled,
        "risk_coverage": risk_coverage(logits, labels),
        "per_class": {
            name: {"accuracy": right / images if images else None, "images": images}
            for name, right, images in zip(class_names, correct, counts, strict=True)
        },
        "confusion": confusion.tolist(),
    }


def trust(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Negative log-likelihood in nats (``loss``), Brier score in [0, 2], and calibration.

    The expected calibration error, in [0, 1], is the mean distance of confidence and accuracy over the images, taken
    in 15 bins of equal width, which ``reliability`` lists.
    """
    probabilities = logits.softmax(1)
    truth = F.one_hot(labels, logits.shape[1])
    below_one = probabilities.clamp(max=1 - torch.finfo(probabilities.dtype).eps)  # which gets a bin of its own
    calibration = multiclass_calibration_error(below_one, labels, logits.shape[1], n_bins=BINS, norm="l1")
    return {
        "loss": float(F.cross_entropy(logits, labels)),
        "brier": float((probabilities - truth).square().sum(1).mean()),
        "calibration_error": float(calibration),
        "reliability": reliability(probabilities, labels),
    }


def reliability(probabilities: Tensor, labels: Tensor) -> dict[str, list[float]]:
    """Of each bin of confidence: images, mean confidence, accuracy (both 0 where there are no images)."""
    confidence, predicted = probabilities.double().max(1)
    place = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    images = torch.bincount(place, minlength=BINS)
    sums = [torch.bincount(place, value, BINS) for value in (confidence, (predicted == labels).double())]
    means = [(total / images.clamp(min=1)).tolist() for total in sums]
    return {"images": images.tolist(), "confidence": means[0], "accuracy": means[1]}


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T at which ``softmax(logits / T)`` is likeliest (arXiv 1706.04599); the logits are of held-out images."""
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
    """Error rate (``risk``) among the most confident share (``coverage``) of images, and the mean risk over all shares.

    That mean is the area under the risk-coverage curve (``aurc``, arXiv 1805.08206).
    """
    confidence, predicted = logits.softmax(1).max(1)
    wrong = (predicted != labels)[confidence.argsort(descending=True, stable=True)]
    risks = wrong.cumsum(0) / torch.arange(1, len(wrong) + 1, device=wrong.device)
    shares = [max(1, round(coverage * len(wrong))) for coverage in COVERAGES]
    return {"coverage": COVERAGES, "risk": [float(risks[share - 1]) for share in shares], "aurc": float(risks.mean())}


def mistakes(logits: Tensor, labels: Tensor, class_names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The 24 images that are classified wrongly with the most confidence; ``index`` is the place in the test set."""
    probabilities = logits.float().softmax(1)
    confidence, predicted = probabilities.max(1)
    places = confidence.argsort(descending=True, stable=True)
    worst = places[(predicted != labels)[places]][:MISTAKES]
    columns = (worst, labels[worst], predicted[worst], confidence[worst], probabilities[worst, labels[worst]])
    return [
        {
            "index": index,
            "label": class_names[label],
            "prediction": class_names[prediction],
            "probability": probability,
            "probability_of_label": rest,
        }
        for index, label, prediction, probability, rest in zip(*(one.tolist() for one in columns), strict=True)
    ]
