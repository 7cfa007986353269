"""ImageClassifier: `FiveBlockNet` under Lightning, with cross-entropy, Adam and the metrics of every stage."""

import math
import os
import shutil
from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import torch
from lightning import LightningModule
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy
from torchvision.transforms import v2

from lightning_cifar.data.augment import normalise
from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.errors import InputError, check_choice
from lightning_cifar.model.ensemble import Ensemble
from lightning_cifar.model.network import FiveBlockNet
from lightning_cifar.train.optim import OptimizerName, Schedule, optimizer_of, parameter_groups, triangular
from lightning_cifar.train.outputs import Outputs
from lightning_cifar.train.tta import Tta, views

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
WHITENING_IMAGES = 5000
MIN_STD = 1e-6  # a constant channel has 0


class ImageClassifier(LightningModule):
    """Images in, logits out. It knows its architecture, classes and normalisation: a checkpoint needs nothing else.

    Args:
        num_classes: number of classes.
        optimizer: ``adam``; ``sgd``: with Nesterov momentum; ``muon``: the same, with orthogonalised steps on the
            convolutions (see `Muon`).
        learning_rate: step size, above 0.
        gate_rate: that of the gates, ``norm_rate``: of batch norm's and other shifts, ``head_rate``: of the
            classifier; None: ``learning_rate``.
        momentum: of ``sgd`` and ``muon``, in [0, 1).
        weight_decay: at least 0; the L2 penalty of ``adam`` and ``sgd``, `Muon`'s decay.
        schedule: ``constant``, or ``triangular`` by step: up over the share ``warmup`` of training, then down to 0.
        warmup: in [0, 1].
        label_smoothing: share in [0, 1) of the training target that is spread evenly over the classes.
        mixup: alpha, at least 0, of the Beta distribution by which training images and labels are mixed, a batch at a
            time (arXiv 1710.09412); 0: not at all. Training accuracy is then by the labels before they are mixed.
        cutmix: the same for rectangles cut from other images (arXiv 1905.04899); of both, each batch has one at random.
        tta: test-time augmentation of test and predict: ``none``, ``mirror``, or ``translate`` (see `views`).
        class_names: one name per class; None: those of the `CIFAR10DataModule` it is trained on.
        mean: per channel, of pixels in [0, 1]; None: that of the data module it is trained on, else CIFAR-10's.
        std: as ``mean``.
        compile: compile the network for training (``torch.compile``); the first step then takes up to a minute, and a
            C++ compiler. Pays on no CPU that was measured. Evaluation and checkpoints stay as they are.
        members: how many networks, at least 1. Several are trained side by side on the same batches, each as it would
            be alone, from a start of its own, and their logits are averaged (see `Ensemble`).
        network: every other argument of `FiveBlockNet`.
    """

    mean: Tensor
    std: Tensor
    compiled: Sequence[Callable[[Tensor], Tensor]] = ()
    compiled_size = 0

    def __init__(
        self,
        num_classes: int = 10,
        optimizer: OptimizerName = "adam",
        learning_rate: float = 1e-3,
        gate_rate: float | None = None,
        norm_rate: float | None = None,
        head_rate: float | None = None,
        momentum: float = 0.85,
        weight_decay: float = 1e-4,
        schedule: Schedule = "constant",
        warmup: float = 0.0,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        tta: Tta = "none",
        class_names: Sequence[str] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        compile: bool = False,
        members: int = 1,
        **network: Any,
    ) -> None:
        super().__init__()
        check_choice("optimizer", optimizer, OptimizerName)
        check_choice("schedule", schedule, Schedule)
        check_choice("tta", tta, Tta)
        rates = {"learning_rate": learning_rate, "gate_rate": gate_rate, "norm_rate": norm_rate, "head_rate": head_rate}
        for name, rate in rates.items():
            if rate is not None and not rate > 0:
                raise InputError(f"{name} must be above 0, got {rate}")
        for name, value in (("weight_decay", weight_decay), ("mixup", mixup), ("cutmix", cutmix)):
            if not value >= 0:
                raise InputError(f"{name} must be at least 0, got {value}")
        for name, share in (("momentum", momentum), ("label_smoothing", label_smoothing)):
            if not 0 <= share < 1:
                raise InputError(f"{name} must be in [0, 1), got {share}")
        if not 0 <= warmup <= 1:
            raise InputError(f"warmup must be in [0, 1], got {warmup}")
        if class_names is not None and len(class_names) != num_classes:
            raise InputError(f"there are {num_classes} classes, but {len(class_names)} names: {', '.join(class_names)}")
        if members < 1:
            raise InputError(f"members must be at least 1, got {members}")
        channels = network.get("in_channels", 3)
        for name, values in (("mean", mean or CIFAR10_MEAN), ("std", std or CIFAR10_STD)):
            if len(values) != channels:
                raise InputError(f"{name} must have one value for each of {channels} channels, got {list(values)}")
            # Not in the state dict: they are hyper-parameters, from which __init__ makes them again.
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)
        self.std.clamp_(min=MIN_STD)
        self.save_hyperparameters()
        # oneDNN's and cuDNN's fast convolutions want channels-last weights and images.
        networks = [FiveBlockNet(num_classes, **network).to(memory_format=torch.channels_last) for _ in range(members)]
        self.network = networks[0] if members == 1 else Ensemble(networks)
        kinds = [(v2.MixUp, mixup), (v2.CutMix, cutmix)]
        mixes = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha]
        self.mix = v2.RandomChoice(mixes) if mixes else None
        # Without validate_args, which would read every batch back from the device.
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.held_out_accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.test_outputs = Outputs()
        self.random_state = torch.get_rng_state()

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = True,
        **kwargs: Any,
    ) -> Self:
        """Lightning's, but with ``weights_only=True``: a file that would run code is refused."""
        return super().load_from_checkpoint(
            checkpoint_path, map_location, hparams_file, strict, weights_only=weights_only, **kwargs
        )

    def setup(self, stage: str) -> None:
        """Completes the hyper-parameters before anything runs, so that a checkpoint has them all."""
        if stage == "fit" and self.trainer.world_size > 1:
            torch.set_rng_state(self.random_state)  # as one process goes on; Lightning has seeded these anew
        if self.datamodule is not None:
            self.adopt(self.datamodule)
            stems = [network.stem for network in self.networks if network.stem is not None]
            if stage == "fit" and stems:
                images = self.normalised(self.datamodule.train.sample(WHITENING_IMAGES).images)
                for stem in stems:
                    stem.whiten(images)
        elif stage == "fit":
            self.normalise_by(CIFAR10_MEAN, CIFAR10_STD)
        if stage == "fit" and self.hparams["compile"]:
            self.compile_network()

    def compile_network(self) -> None:
        """Trains by a compiled network from now on; compiled when the first batch comes.

        Raises:
            InputError: there is no C++ compiler.
        """
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            raise InputError(f"--model.compile needs a C++ compiler, and there is no {compiler}: name one by CXX")
        self.compiled = [torch.compile(network.forward, dynamic=False) for network in self.networks]

    def adopt(self, data: CIFAR10DataModule) -> None:
        """Takes class names and normalisation from the data where it has none of its own.

        Raises:
            InputError: the data has other classes.
        """
        names = list(data.dataset.class_names)
        known = self.hparams["class_names"]
        if len(names) != self.hparams["num_classes"]:
            raise InputError(f"the model has {self.hparams['num_classes']} classes, the data {len(names)}")
        if known is not None and list(known) != names:
            raise InputError(f"the model knows the classes {', '.join(known)}; the data has {', '.join(names)}")
        self.hparams["class_names"] = names
        self.normalise_by(data.mean, data.std)

    def normalise_by(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Normalises by these from now on, unless others were given or trained with."""
        self.hparams["mean"] = list(self.hparams["mean"] or mean)
        self.hparams["std"] = list(self.hparams["std"] or std)
        self.mean.copy_(torch.tensor(self.hparams["mean"]))
        self.std.copy_(torch.tensor(self.hparams["std"])).clamp_(min=MIN_STD)

    @property
    def networks(self) -> Sequence[FiveBlockNet]:
        """The network, or the members of the ensemble."""
        several = isinstance(self.network, Ensemble)
        return cast(Sequence[FiveBlockNet], self.network.members if several else [self.network])

    @property
    def datamodule(self) -> CIFAR10DataModule | None:
        found = getattr(self.trainer, "datamodule", None)
        return found if isinstance(found, CIFAR10DataModule) else None

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes) of images (B, 3, H, W), uint8 or floats in [0, 1]; H, W at least a stem's kernel."""
        return self.network(self.normalised(images))

    def normalised(self, images: Tensor) -> Tensor:
        """What the network is fed: floats of mean 0 and standard deviation 1 per channel, channels last."""
        return normalise(images, self.mean, self.std)

    def augmented(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits averaged as ``tta`` says, and those of the images alone, in float32."""
        symmetric = self.hparams.get("flip_equivariant", False)
        weighted = views(self.normalised(images), self.hparams["tta"], symmetric)
        logits = [self.network(view).float() for _, view in weighted]  # the first view is the image
        return sum(weight * one for (weight, _), one in zip(weighted, logits, strict=True)), logits[0]

    def trained(self, pixels: Tensor) -> list[Tensor]:
        """Logits of training images by each network; by the compiled ones where there are such.

        They are compiled for the first batch's size. To compile for a smaller last batch too would take longer than it
        is worth.
        """
        if self.compiled and not self.compiled_size:
            self.compiled_size = len(pixels)
        forms = self.compiled if len(pixels) == self.compiled_size else self.networks
        return [form(pixels) for form in forms]

    def summed_loss(self, each: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Cross-entropy of each network's logits, and not of their mean: every network learns as it would alone."""
        smoothing = self.hparams["label_smoothing"]
        return torch.stack([F.cross_entropy(logits, targets, label_smoothing=smoothing) for logits in each]).sum()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        pixels, targets = self.normalised(images), labels
        if self.mix is not None:
            pixels, targets = self.mix(pixels, labels)
        each = self.trained(pixels)
        loss = self.summed_loss(each, targets)
        self.train_accuracy(torch.stack(each).mean(0), labels)
        self.log("train/loss", loss / len(each), on_step=True, on_epoch=True, batch_size=len(labels), sync_dist=True)
        self.log("train/accuracy", self.train_accuracy, on_step=True, on_epoch=True, batch_size=len(labels))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self(images)
        self.held_out_accuracy.update(logits, labels)
        # Named for what it is: the recipe `report` watches the test set, as the report did.
        name = self.datamodule.hparams["held_out"] if self.datamodule else "val"
        size: Any = float(len(labels))  # of whole numbers, Lightning's mean over processes is a whole number
        self.log(f"{name}/loss", F.cross_entropy(logits, labels), batch_size=size, sync_dist=True)
        self.log(f"{name}/accuracy", self.held_out_accuracy, batch_size=len(labels))

    def on_test_epoch_start(self) -> None:
        self.test_outputs.reset()  # not in on_test_epoch_end: they are evaluated after the test

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.test_outputs.update(*self.augmented(images), labels)

    def on_test_epoch_end(self) -> None:
        logits, plain, labels = self.test_outputs.compute()
        self.log("test/loss", F.cross_entropy(logits, labels))
        self.log("test/accuracy", (logits.argmax(1) == labels).float().mean())
        if self.hparams["tta"] != "none":
            self.log("test/accuracy_without_tta", (plain.argmax(1) == labels).float().mean())

    def predict_step(self, batch: Tensor | tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """Probabilities (B, num_classes), float32, of images alone or with labels."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        return self.augmented(images)[0].softmax(1)

    def configure_optimizers(self) -> Any:
        options = self.hparams
        rates = {"filters": options["learning_rate"]}
        for role in ("gate", "norm", "head"):
            rates[role] = options[f"{role}_rate"] or options["learning_rate"]
        groups = parameter_groups(self.network, rates)
        optimizer = optimizer_of(groups, options["optimizer"], options["momentum"], options["weight_decay"])
        if options["schedule"] == "constant":
            return optimizer
        factor = triangular(self.total_steps(), options["warmup"])
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def total_steps(self) -> int:
        """Steps of this training; Lightning's ``estimated_stepping_batches`` would build the loaders once more."""
        epochs, steps, data = self.trainer.max_epochs, self.trainer.max_steps, self.datamodule
        if data is None:
            return int(self.trainer.estimated_stepping_batches)
        batches = len(data.train) / data.hparams["batch_size"]
        batches = math.floor(batches) if data.hparams["drop_last"] else math.ceil(batches)
        limit = self.trainer.limit_train_batches
        batches = int(batches * limit) if isinstance(limit, float) else min(batches, limit)
        an_epoch = math.ceil(batches / self.trainer.accumulate_grad_batches)
        bounds = [epochs * an_epoch] if epochs not in (None, -1) else []
        bounds += [steps] if steps != -1 else []
        if not bounds:
            raise InputError("a triangular schedule needs an end: --trainer.max_epochs or --trainer.max_steps")
        return min(bounds)
