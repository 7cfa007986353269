"""ImageClassifier: a network as a LightningModule, with loss, optimiser, metrics and test-time augmentation."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.data import extract_batch_size
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from lightning_cifar.data.module import CIFAR10DataModule
from lightning_cifar.data.square import SIZE, NonSquare
from lightning_cifar.data.steps import count_steps
from lightning_cifar.model.ensemble import Ensemble
from lightning_cifar.model.freezing import freeze as freeze_parts
from lightning_cifar.model.named import FIVE_BLOCK, build_network
from lightning_cifar.model.network import FiveBlockNet
from lightning_cifar.model.normalisation import CIFAR10_MEAN, CIFAR10_STD, Normalisation
from lightning_cifar.train.averages import prepare_averages
from lightning_cifar.train.checkpoint import check_checkpoint
from lightning_cifar.train.compilation import CompiledNetworks
from lightning_cifar.train.hyperparameters import adopt_checkpoint, adopt_data, check_hyperparameters, set_normalisation
from lightning_cifar.train.left_out import warn_of_what_is_left_out
from lightning_cifar.train.objective import ClassWeights, Objective, choose_classes, convert_batch, split_batch
from lightning_cifar.train.optim import build_optimizer, fuse
from lightning_cifar.train.outputs import Outputs
from lightning_cifar.train.replay import start_replay, stop_replay
from lightning_cifar.train.schedule import Schedule, build_schedule
from lightning_cifar.train.tta import Tta, make_views
from lightning_cifar.train.whitening import whiten_stems
from lightning_cifar.values import to_plain


class ImageClassifier(LightningModule):
    """Map images to logits. A checkpoint includes architecture, class names and normalisation: it needs nothing else.

    Args:
        num_classes: number of classes.
        network: name of the network, or a function of yours (see `lightning_cifar.model.named.build_network`).
        network_args: arguments of a network other than ``five_block``.
        optimizer: ``adam``, ``adamw``, ``sgd`` (Nesterov's), ``muon``, or a class of `torch.optim`: ``RMSprop``.
        optimizer_args: further arguments of the optimiser.
        learning_rate: step size, above 0.
        gate_rate: step size of the gates; None: ``learning_rate``.
        norm_rate: step size of batch norm and biases, in the same way.
        head_rate: step size of the classifier, in the same way.
        momentum: of ``sgd`` and ``muon``, in [0, 1).
        weight_decay: at least 0; L2 penalty of ``adam`` and ``sgd``, decoupled for ``adamw``; of ``muon``, on batch
            norm, biases and the classifier only.
        schedule: ``constant``; ``triangular``, ``cosine``: rates rise in the warm-up, then fall to 0; ``one_cycle``.
        warmup: share of the steps, in [0, 1]; default: 0.3 for ``one_cycle``, otherwise 0.
        label_smoothing: share in [0, 1) of the target that is spread evenly over the classes.
        class_weights: factor of each class in the training loss; ``balanced``: inverse to its number of images.
        mixup: alpha of MixUp, at least 0 (arXiv 1710.09412); 0: off. Training accuracy counts the unmixed labels.
        cutmix: alpha of CutMix (arXiv 1905.04899); 0: off. With ``mixup`` too, each batch uses one at random.
        tta: test-time augmentation in test and predict: ``none``, ``mirror`` or ``translate``.
        class_names: one name per class; None: those of the `CIFAR10DataModule` in training.
        image_size: height and width of the images; None: those of the data module in training, else 32.
        non_square: ``crop`` or ``letterbox``, for images that are not square; None: as for ``image_size``.
        mean: of each channel, for pixels in [0, 1]; None: that of the data module in training, else CIFAR-10's.
        std: standard deviation of each channel, as ``mean``.
        compile: train through ``torch.compile``, which needs a C++ compiler. Slower than eager mode on CPUs.
        replay: record the training step as a CUDA graph and replay it; ``auto``: on a GPU, where it is possible.
        members: number of networks, at least 1, trained separately on the same batches; their logits are averaged.
        freeze: number of first blocks that are not trained (see `lightning_cifar.model.freezing.freeze`).
        five_block: arguments of `FiveBlockNet`.
    """

    compiled: CompiledNetworks | None = None
    batch: tuple[Tensor, ...] = ()
    temperature = 1.0  # by which `predict_step` divides the logits; a weights file may hold another

    def __init__(
        self,
        num_classes: int = 10,
        network: str | Callable[..., nn.Module] = FIVE_BLOCK,
        network_args: dict[str, Any] | None = None,
        optimizer: str = "adam",
        optimizer_args: dict[str, Any] | None = None,
        learning_rate: float = 1e-3,
        gate_rate: float | None = None,
        norm_rate: float | None = None,
        head_rate: float | None = None,
        momentum: float = 0.85,
        weight_decay: float = 1e-4,
        schedule: Schedule = "constant",
        warmup: float | None = None,
        label_smoothing: float = 0.0,
        class_weights: ClassWeights = None,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        tta: Tta = "none",
        class_names: Sequence[str] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        compile: bool = False,
        replay: bool | Literal["auto"] = "auto",
        members: int = 1,
        freeze: int = 0,
        image_size: int | None = None,
        non_square: NonSquare | None = None,
        **five_block: Any,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["image_size", "non_square"])  # names of the data module's, for loggers
        size = SIZE if image_size is None and network != FIVE_BLOCK else image_size  # others are built for one
        self.hparams.update(to_plain(dict(self.hparams) | {"image_size": size, "non_square": non_square}))
        check_hyperparameters(self.hparams, five_block)
        five_block = {name: self.hparams[name] for name in five_block}
        self.normalise = Normalisation(self.hparams["mean"], self.hparams["std"], five_block.get("in_channels", 3))
        networks = [build_network(network, num_classes, network_args, size, **five_block) for _ in range(members)]
        self.network = networks[0] if members == 1 else Ensemble(networks)
        freeze_parts(self.networks, freeze)
        self.objective = Objective(num_classes, label_smoothing, mixup, cutmix, self.hparams["class_weights"])
        self.held_out_accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)  # no sync
        self.test_outputs = Outputs()
        self.random_state = torch.get_rng_state()

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Call Lightning's method with ``weights_only=True``; refuse a file that would run code or is damaged."""
        if kwargs.get("weights_only", True):
            check_checkpoint(checkpoint_path)
        return super().load_from_checkpoint(checkpoint_path, *args, **{"weights_only": True, **kwargs})

    @property
    def networks(self) -> list[nn.Module]:
        """The network, or the members of the ensemble."""
        return list(self.network.members) if isinstance(self.network, Ensemble) else [self.network]

    @property
    def five_block_nets(self) -> list[FiveBlockNet]:
        """The `networks` that are `FiveBlockNet`s: they have gates, blocks and stems."""
        return [network for network in self.networks if isinstance(network, FiveBlockNet)]

    @property
    def datamodule(self) -> CIFAR10DataModule | None:
        return data if isinstance(data := getattr(self._trainer, "datamodule", None), CIFAR10DataModule) else None

    def setup(self, stage: str) -> None:
        """Complete the hyper-parameters, so that every checkpoint has them; before ``fit``, whiten and compile."""
        if (data := self.datamodule) is not None:
            self.adopt(data)
        if stage != "fit":
            return
        self.objective.weigh(self.hparams["class_weights"])
        if self.trainer.world_size > 1:
            torch.set_rng_state(self.random_state)  # Lightning has reseeded each process; continue as one would
        set_normalisation(self.hparams, CIFAR10_MEAN, CIFAR10_STD)  # if there is no data module
        if data is not None:
            whiten_stems(self.five_block_nets, data.train, self.normalise)
        self.compiled = CompiledNetworks(self.networks) if self.hparams["compile"] else None

    def adopt(self, data: CIFAR10DataModule) -> None:
        """Take class names, size and normalisation from the data where there are none; `InputError` if they differ."""
        adopt_data(self.hparams, data)
        self.normalise.set(self.hparams["mean"], self.hparams["std"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take class names, size and normalisation, which the weights need: a subclass may not pass them on."""
        adopt_checkpoint(self.hparams, checkpoint)
        self.normalise.set(self.hparams["mean"], self.hparams["std"])
        if (data := self.datamodule) is not None:
            adopt_data(self.hparams, data)  # checks that the data fits

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, num_classes) for images (B, C, H, W), uint8 or floats in [0, 1]."""
        return self.network(self.normalise(images))

    def average_views(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits averaged over the views of ``tta``, and those of the images, in float32."""
        symmetric = getattr(self.networks[0], "flip_equivariant", False)
        weighted = make_views(self.normalise(images), self.hparams["tta"], symmetric)
        logits = [self.network(view).float() for _, view in weighted]  # the first view is the image
        return sum(weight * one for (weight, _), one in zip(weighted, logits, strict=True)), logits[0]

    def forward_members(self, pixels: Tensor) -> list[Tensor]:
        """Return each network's logits."""
        return self.compiled(pixels) if self.compiled else [network(pixels) for network in self.networks]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return the sum of the networks' losses, and the number of images that their mean logits classify right."""
        images, labels = split_batch(batch)
        pixels, targets = self.objective.mix(self.normalise(images), labels)
        each = self.forward_members(pixels)
        loss = self.objective.sum_losses(each, targets)  # checks that they are logits
        correct = (torch.stack(each).mean(0).argmax(1) == choose_classes(labels)).sum()
        return {"loss": loss, "correct": correct}

    def on_train_start(self) -> None:
        fuse(*self.trainer.optimizers)  # again: a checkpoint may come from another device
        prepare_averages(self.trainer, self.datamodule)
        nn.ModuleList(freeze_parts(self.networks, self.hparams["freeze"])).eval()  # also if resumed within an epoch
        start_replay(self, self.datamodule, ImageClassifier)
        warn_of_what_is_left_out(self, self.datamodule, ImageClassifier)

    def _on_before_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Any:  # on a GPU, a check would wait
        return convert_batch(super()._on_before_batch_transfer(batch, dataloader_idx), self, ImageClassifier)

    def on_train_batch_start(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.batch = batch

    def on_train_batch_end(self, outputs: Any, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        # Not in `training_step`: a replay repeats only what that does on the device.
        size, parts = extract_batch_size(batch), self.trainer.accumulate_grad_batches  # by these, the loss is divided
        for key, name, n in (("loss", "train/loss", len(self.networks) / parts), ("correct", "train/accuracy", size)):
            if key in outputs:  # a subclass may return less
                self.log(name, outputs[key] / n, on_step=True, on_epoch=True, batch_size=size, sync_dist=True)

    def on_validation_model_zero_grad(self) -> None:
        """Keep the gradients, which Lightning frees here: recorded steps write to them, `GateStatistics` reads them."""

    def teardown(self, stage: str) -> None:
        stop_replay(self, self.datamodule)
        self.batch = ()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = split_batch(batch)
        logits = self(images)
        self.held_out_accuracy.update(logits, choose_classes(labels))
        # `test` in the recipe `report`, which watches the test set as the report did.
        name = self.datamodule.hparams["held_out"] if self.datamodule else "val"
        size: Any = float(len(labels))  # Lightning rounds its mean over processes if the sizes are integers
        self.log(f"{name}/loss", F.cross_entropy(logits.float(), labels), batch_size=size, sync_dist=True)
        self.log(f"{name}/accuracy", self.held_out_accuracy, batch_size=len(labels))

    def on_test_epoch_start(self) -> None:
        self.test_outputs.reset()  # not in on_test_epoch_end: they are read after the test

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        images, labels = split_batch(batch)
        self.test_outputs.update(*self.average_views(images), labels)

    def on_test_epoch_end(self) -> None:
        loaders = len(self.trainer.num_test_batches)
        self.log_dict(self.test_outputs.measure(loaders, augmented=self.hparams["tta"] != "none"))

    def predict_step(self, batch: Tensor | tuple[Tensor, ...], batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return probabilities (B, num_classes) in float32 for a batch of images, with or without labels."""
        return (self.average_views(batch if isinstance(batch, Tensor) else batch[0])[0] / self.temperature).softmax(1)

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.network, self.hparams)
        if self.hparams["schedule"] == "constant":
            return optimizer
        scheduler = build_schedule(optimizer, self.hparams, count_steps(self.trainer, self.datamodule))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
