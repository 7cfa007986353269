"""ImageClassifier: `FiveBlockNet` as a LightningModule, with loss, optimiser, metrics and test-time augmentation."""

from collections.abc import Sequence
from typing import Any, Literal, Self, cast

import torch
from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from lightning_cifar.data.augment import check_pixels, normalise
from lightning_cifar.data.images import SIZE, NonSquare
from lightning_cifar.data.loader import Order
from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.model.ensemble import Ensemble
from lightning_cifar.model.network import FiveBlockNet
from lightning_cifar.train.compilation import CompiledNetworks
from lightning_cifar.train.hyperparameters import adopt_data, check_channels, check_hyperparameters
from lightning_cifar.train.objective import Objective
from lightning_cifar.train.optim import OptimizerName, Schedule, build_optimizer, build_triangle, count_steps, fuse
from lightning_cifar.train.outputs import Outputs
from lightning_cifar.train.replay import start_replay, stop_replay
from lightning_cifar.train.tta import Tta, make_views
from lightning_cifar.values import to_plain

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
WHITENING_IMAGES = 5000  # of 32x32: the memory for the patches of larger ones is the same
MIN_STD = 1e-6  # the standard deviation of a constant channel is 0


class ImageClassifier(LightningModule):
    """Map images to logits. A checkpoint includes architecture, class names and normalisation: it needs nothing else.

    Args:
        num_classes: number of classes.
        optimizer: ``adam``; ``sgd``: with Nesterov momentum; ``muon``: like ``sgd``, with orthogonalised steps for the
            convolutions (see `lightning_cifar.train.optim.Muon`).
        learning_rate: step size, above 0.
        gate_rate: step size of the gates; None: ``learning_rate``.
        norm_rate: step size of batch norm and of biases; None: ``learning_rate``.
        head_rate: step size of the classifier; None: ``learning_rate``.
        momentum: of ``sgd`` and ``muon``, in [0, 1).
        weight_decay: at least 0; L2 penalty of ``adam`` and ``sgd``, decay of ``muon``.
        schedule: ``constant``; ``triangular``: the rates rise over the share ``warmup`` of the steps, then fall to 0.
        warmup: in [0, 1].
        label_smoothing: share in [0, 1) of the target that is spread evenly over the classes.
        mixup: alpha of MixUp, at least 0 (arXiv 1710.09412); 0: off. Training accuracy counts the unmixed labels.
        cutmix: alpha of CutMix (arXiv 1905.04899); 0: off. With ``mixup`` too, each batch uses one at random.
        tta: test-time augmentation in test and predict: ``none``, ``mirror`` or ``translate``.
        class_names: one name per class; None: those of the `CIFAR10DataModule` in training.
        image_size: height and width of the images; None: those of the data module in training, else 32.
        non_square: how an image that is not square becomes one, as ``image_size``.
        mean: per channel, for pixels in [0, 1]; None: that of the data module in training, else CIFAR-10's.
        std: as ``mean``.
        compile: train through ``torch.compile``, which needs a C++ compiler. Slower than eager mode on CPUs.
        replay: record the training step as one CUDA graph and replay it, with the same results; ``auto``: if the
            device is a GPU. Where replay is impossible, a warning says why, and steps run eagerly.
        members: number of networks, at least 1, trained separately on the same batches; their logits are averaged.
        network: further arguments of `FiveBlockNet`.
    """

    mean: Tensor
    std: Tensor
    compiled: CompiledNetworks | None = None
    batch: tuple[Tensor, ...] = ()

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
        replay: bool | Literal["auto"] = "auto",
        members: int = 1,
        image_size: int | None = None,
        non_square: NonSquare | None = None,
        **network: Any,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["image_size", "non_square"])  # names of the data module's, for loggers
        self.hparams.update(to_plain(dict(self.hparams) | {"image_size": image_size, "non_square": non_square}))
        check_hyperparameters(self.hparams)
        network = {name: self.hparams[name] for name in network}
        mean, std = self.hparams["mean"] or CIFAR10_MEAN, self.hparams["std"] or CIFAR10_STD
        check_channels(mean, std, network.get("in_channels", 3))
        # Not in the state dict: __init__ makes them from the hyper-parameters.
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)
        self.std.clamp_(min=MIN_STD)
        # Channels last, for the fast convolutions of oneDNN and cuDNN.
        networks = [FiveBlockNet(num_classes, **network).to(memory_format=torch.channels_last) for _ in range(members)]
        self.network = networks[0] if members == 1 else Ensemble(networks)
        self.objective = Objective(num_classes, label_smoothing, mixup, cutmix)
        # validate_args would read every batch back from the device.
        self.held_out_accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.test_outputs = Outputs()
        self.random_state = torch.get_rng_state()

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Call Lightning's method with ``weights_only=True``, which refuses a file that would run code."""
        return super().load_from_checkpoint(checkpoint_path, *args, **{"weights_only": True, **kwargs})

    @property
    def networks(self) -> Sequence[FiveBlockNet]:
        """The network, or the members of the ensemble."""
        ensemble = isinstance(self.network, Ensemble)
        return cast(Sequence[FiveBlockNet], self.network.members if ensemble else [self.network])

    @property
    def datamodule(self) -> CIFAR10DataModule | None:
        attached = getattr(self.trainer, "datamodule", None)
        return attached if isinstance(attached, CIFAR10DataModule) else None

    def setup(self, stage: str) -> None:
        """Complete the hyper-parameters, so that every checkpoint has them; before ``fit``, whiten and compile."""
        data = self.datamodule
        if data is not None:
            self.adopt(data)
        if stage != "fit":
            return
        if self.trainer.world_size > 1:
            torch.set_rng_state(self.random_state)  # Lightning has reseeded each process; continue as one would
        if data is None:
            self.set_normalisation(CIFAR10_MEAN, CIFAR10_STD)
        elif stems := [network.stem for network in self.networks if network.stem is not None]:
            size = data.hparams["image_size"]
            images = self.normalise(data.train.sample(WHITENING_IMAGES * SIZE**2 // size**2).images)
            for stem in stems:
                stem.whiten(images)
        if self.hparams["compile"]:
            self.compiled = CompiledNetworks(self.networks)

    def adopt(self, data: CIFAR10DataModule) -> None:
        """Take class names, size and normalisation from the data where there are none; `InputError` if they differ."""
        adopt_data(self.hparams, data)
        self.set_normalisation(data.mean, data.std)

    def set_normalisation(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Normalise by these values from now on, unless the hyper-parameters already have some."""
        self.hparams["mean"] = list(self.hparams["mean"] or mean)
        self.hparams["std"] = list(self.hparams["std"] or std)
        self.mean.copy_(torch.tensor(self.hparams["mean"]))
        self.std.copy_(torch.tensor(self.hparams["std"])).clamp_(min=MIN_STD)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, num_classes) for images (B, C, H, W), uint8 or floats in [0, 1]."""
        check_pixels(images)
        return self.network(self.normalise(images))

    def normalise(self, images: Tensor) -> Tensor:
        """Return the network's input: floats of mean 0 and standard deviation 1 per channel, channels last."""
        return normalise(images, self.mean, self.std)

    def average_views(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits averaged over the views of ``tta``, and those of the images, in float32."""
        check_pixels(images)
        symmetric = self.hparams.get("flip_equivariant", False)
        weighted = make_views(self.normalise(images), self.hparams["tta"], symmetric)
        logits = [self.network(view).float() for _, view in weighted]  # the first view is the image
        return sum(weight * one for (weight, _), one in zip(weighted, logits, strict=True)), logits[0]

    def forward_members(self, pixels: Tensor) -> list[Tensor]:
        """Return each network's logits, in training."""
        return self.compiled(pixels) if self.compiled else [network(pixels) for network in self.networks]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return the sum of the networks' losses, and the number of images that their mean logits classify right."""
        images, labels = batch
        pixels, targets = self.objective.mix(self.normalise(images), labels)
        each = self.forward_members(pixels)
        correct = (torch.stack(each).mean(0).argmax(1) == labels).sum()
        return {"loss": self.objective.sum_losses(each, targets), "correct": correct}

    def on_train_start(self) -> None:
        fuse(*self.trainer.optimizers)  # again: a checkpoint may come from another device
        start_replay(self, self.datamodule, ImageClassifier)
        if self.datamodule is None and isinstance(getattr(self.trainer.train_dataloader, "sampler", None), Order):
            rank_zero_warn("training without augmentation: pass trainer.fit the data module, not its loader")

    def on_train_batch_start(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.batch = batch

    def on_train_batch_end(self, outputs: Any, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        # Not in `training_step`: a replay repeats only what that does on the device.
        size = len(batch[1])
        for key, name, n in (("loss", "train/loss", len(self.networks)), ("correct", "train/accuracy", size)):
            if key in outputs:  # a subclass may return less
                self.log(name, outputs[key] / n, on_step=True, on_epoch=True, batch_size=size, sync_dist=True)

    def on_validation_model_zero_grad(self) -> None:
        """Keep the gradients, which Lightning frees here: recorded steps write to them, `GateStatistics` reads them."""

    def teardown(self, stage: str) -> None:
        stop_replay(self, self.datamodule)
        self.batch = ()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self(images)
        self.held_out_accuracy.update(logits, labels)
        # `test` in the recipe `report`, which watches the test set as the report did.
        name = self.datamodule.hparams["held_out"] if self.datamodule else "val"
        size: Any = float(len(labels))  # Lightning rounds its mean over processes if the sizes are integers
        self.log(f"{name}/loss", F.cross_entropy(logits, labels), batch_size=size, sync_dist=True)
        self.log(f"{name}/accuracy", self.held_out_accuracy, batch_size=len(labels))

    def on_test_epoch_start(self) -> None:
        self.test_outputs.reset()  # not in on_test_epoch_end: they are read after the test

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.test_outputs.update(*self.average_views(images), labels)

    def on_test_epoch_end(self) -> None:
        logits, plain, labels = self.test_outputs.compute()
        self.log("test/loss", F.cross_entropy(logits, labels))
        self.log("test/accuracy", (logits.argmax(1) == labels).float().mean())
        if self.hparams["tta"] != "none":
            self.log("test/accuracy_without_tta", (plain.argmax(1) == labels).float().mean())

    def predict_step(self, batch: Tensor | tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """Return probabilities (B, num_classes) in float32 for a batch of images, with or without labels."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        return self.average_views(images)[0].softmax(1)

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.network, self.hparams)
        if self.hparams["schedule"] == "constant":
            return optimizer
        factor = build_triangle(count_steps(self.trainer, self.datamodule), self.hparams["warmup"])
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
