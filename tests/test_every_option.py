"""Every option of `fit` makes another run, or a line says why not."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer

from lightning_cifar import Throughput, main
from lightning_cifar.run.settings.options import FLAGS, SIGNATURES, list_parameters
from lightning_cifar.train.checkpoint import load_checkpoint

BASE = ["--trainer.limit_train_batches", "3", "--trainer.limit_val_batches", "1", "--trainer.log_every_n_steps", "1"]
# A value of each option that differs from its default, and other options without which it has no meaning.
VALUES = {
    "data.dataset": "cifar100 --data.archive none.tar.gz",
    "data.root": "elsewhere",
    "data.url": "http://127.0.0.1:9",
    "data.archive": "none.tar.gz",
    "data.batch_size": "32",
    "data.eval_batch_size": "50",
    "data.held_out": "test",
    "data.val_size": "60",
    "data.split_seed": "1",
    "data.flip": "true",
    "data.crop_padding": "0",
    "data.cutout": "8",
    "data.transform": "rand_augment",
    "data.sizes": "[16]",
    "data.size_shares": "[1,5] --data.sizes [16,32]",
    "data.drop_last": "true --data.batch_size 600",
    "data.balanced": "true",
    "data.in_memory": "false",
    "data.num_workers": "1",
    "data.image_size": "64",
    "data.non_square": "letterbox",
    "data.labels": "none.csv",
    "data.classes": "[a]",
    "model.network": "squeezenet1_1",
    "model.network_args": "{a: 1}",
    "model.optimizer": "sgd",
    "model.optimizer_args": "{alpha: 0.5} --model.optimizer RMSprop",
    "model.learning_rate": "0.01",
    "model.gate_rate": "0.01",
    "model.norm_rate": "0.01",
    "model.head_rate": "0.01",
    "model.momentum": "0.5 --model.optimizer sgd",
    "model.weight_decay": "0.1",
    "model.schedule": "triangular",
    "model.warmup": "0.5 --model.schedule triangular",
    "model.label_smoothing": "0.1",
    "model.class_weights": "balanced",
    "model.mixup": "0.5",
    "model.cutmix": "0.5",
    "model.tta": "mirror",
    "model.class_names": "[a,b,c,d,e,f,g,h,i,j]",
    "model.mean": "[0.1,0.1,0.1]",
    "model.std": "[0.1,0.1,0.1]",
    "model.compile": "true",
    "model.replay": "true",
    "model.members": "2",
    "model.freeze": "2 --init_from pretrained --model.widths [64,128,256,256,384]",
    "model.in_channels": "1",
    "model.widths": "[4,4,4,4,4]",
    "model.kernel_sizes": "[1]",
    "model.order": "[sum,norm,activation,pool]",
    "model.pools": "[true,true,true,true,false]",
    "model.depths": "[1,0,0,0,0]",
    "model.activation": "gelu",
    "model.bias": "false",
    "model.dirac": "true",
    "model.norm_scale": "false",
    "model.norm_momentum": "0.5",
    "model.gate": "softmax",
    "model.temperature": "2 --model.gate softmax",
    "model.stem_kernel": "2",
    "model.stem_stride": "2 --model.stem_kernel 2",
    "model.stem_bias": "false --model.stem_kernel 2",
    "model.global_pool": "max",
    "model.hidden": "8",
    "model.dropout": "0.1",
    "model.flip_equivariant": "true",
    "trainer.accelerator": "cuda",
    "trainer.strategy": "fsdp",
    "trainer.devices": "[0,1]",
    "trainer.num_nodes": "0",
    "trainer.precision": "bf16-mixed",
    "trainer.logger": "TensorBoardLogger --trainer.logger.save_dir logs",
    "trainer.callbacks": "EarlyStopping --trainer.callbacks.monitor val/loss",
    "trainer.fast_dev_run": "true",
    "trainer.max_epochs": "2",
    "trainer.min_epochs": "3",
    "trainer.max_steps": "2",
    "trainer.min_steps": "5",
    "trainer.max_time": "00:00:00:00",
    "trainer.limit_train_batches": "2",
    "trainer.limit_val_batches": "0",
    "trainer.limit_test_batches": "1",
    "trainer.limit_predict_batches": "1",
    "trainer.overfit_batches": "1",
    "trainer.val_check_interval": "2",
    "trainer.check_val_every_n_epoch": "2",
    "trainer.num_sanity_val_steps": "0",
    "trainer.log_every_n_steps": "2",
    "trainer.enable_checkpointing": "false",
    "trainer.enable_progress_bar": "false",
    "trainer.enable_model_summary": "true",
    "trainer.accumulate_grad_batches": "2",
    "trainer.gradient_clip_val": "0.001",
    "trainer.gradient_clip_algorithm": "value --trainer.gradient_clip_val 0.001",
    "trainer.deterministic": "true",
    "trainer.benchmark": "true",
    "trainer.inference_mode": "false",
    "trainer.use_distributed_sampler": "true",
    "trainer.profiler": "simple",
    "trainer.detect_anomaly": "true",
    "trainer.barebones": "true --trainer.log_every_n_steps 0",
    "trainer.plugins": "MixedPrecision",
    "trainer.sync_batchnorm": "true",
    "trainer.reload_dataloaders_every_n_epochs": "1",
    "trainer.default_root_dir": "elsewhere",
    "trainer.enable_autolog_hparams": "false",
    "trainer.model_registry": "mine",
    "recipe": "report --data.dataset digits --data.held_out val",
    "config": "none.yaml",
    "run_dir": "other",
    "resume": "none",
    "ckpt_path": "none.ckpt",
    "init_from": "none.ckpt",
    "seed_everything": "1",
    "wandb": "offline",
    "wandb_checkpoints": "",
    "corruptions": "",
    "near_duplicates": "none.csv",
    "trust_config": "none",
    "print_model": "",
    "print_config": "",
    "help": "",
}


# Options that change only the speed, only GPUs, or only later commands, and where their effect is seen.
SEEN: dict[str, Callable[[Trainer], Any]] = {
    "model.tta": lambda trainer: trainer.lightning_module.hparams["tta"],
    "trainer.benchmark": lambda trainer: torch.backends.cudnn.benchmark,
    "trainer.detect_anomaly": lambda trainer: torch.is_anomaly_enabled(),
    "trainer.deterministic": lambda trainer: torch.are_deterministic_algorithms_enabled(),
    "trainer.inference_mode": lambda trainer: trainer.validate_loop.inference_mode,
    "trainer.num_sanity_val_steps": lambda trainer: trainer.num_sanity_val_steps,
}
PERMISSION = "trust_config"  # changes nothing by itself
# A few of each kind, which .ci/run tries: of data, model, Trainer and run; seen in weights, numbers, files and lines.
TRIED = {
    *("data.cutout", "data.transform", "data.sizes", "data.num_workers", "model.optimizer_args", "model.warmup"),
    *("model.cutmix", "model.tta", "model.members", "trainer.devices", "trainer.precision", "trainer.callbacks"),
    *("trainer.limit_predict_batches", "trainer.accumulate_grad_batches", "trainer.deterministic", "recipe"),
    *("seed_everything", "wandb", "corruptions", "print_model"),
}


def test_every_option_has_a_value_here():
    assert {*VALUES} == {*FLAGS, *(f"{group}.{name}" for group in SIGNATURES for name in list_parameters(group))}
    assert {*VALUES} > TRIED


@pytest.fixture(scope="module")
def observed() -> dict[tuple[str, ...], dict[str, object]]:
    """What was seen of earlier runs, by their options."""
    return {}


def observe(capsys, caplog, tiny, words: list[str]) -> dict[str, object]:
    """Run ``fit`` and return all that a user sees of it, but for times and the configuration."""
    caplog.clear()
    run_dir = Path("run")
    shutil.rmtree(run_dir, ignore_errors=True)
    status = main(["fit", "--run_dir", "run", *tiny, *BASE, *words])
    out, err = (text.splitlines() for text in capsys.readouterr())
    seen: dict[str, object] = {"logged": [record.message for record in caplog.records]}
    seen |= {"status": status, "err": err, "out": [line for line in out if line[:1].isalpha()]}
    seen["files"] = sorted(str(file.relative_to(run_dir)) for file in run_dir.rglob("*") if file.is_file())
    if (run_dir / "metrics.csv").exists():
        with (run_dir / "metrics.csv").open(newline="") as opened:
            rows = csv.DictReader(opened)
            seen["metrics"] = [[*(pair for pair in row.items() if "time/" not in pair[0])] for row in rows]
    if (last := run_dir / "checkpoints/last.ckpt").exists():
        weights = load_checkpoint(last)["state_dict"]
        seen["weights"] = {name: float(value.double().norm()) for name, value in weights.items()}
    return seen


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in TRIED else pytest.mark.long)
        for name in VALUES
        if name != PERMISSION
    ],
)
def test_option_makes_another_run_or_a_line(name, tiny, capsys, caplog, monkeypatch, observed):
    attributes: list[object] = []
    if name in SEEN:
        watch = SEEN[name]
        monkeypatch.setattr(
            Throughput, "on_train_batch_start", lambda _, trainer, *__: attributes.append(watch(trainer))
        )
    monkeypatch.setattr(torch, "compile", lambda network, **_: print("compiled") or network)
    value, *context = VALUES[name].split(" --")
    words = [word for option in context for word in f"--{option}".split(" ", 1)]
    changed = observe(capsys, caplog, tiny, [f"--{name}", *([value] if value else []), *words])
    found = attributes.copy()
    attributes.clear()
    if name in SEEN or tuple(words) not in observed:
        observed[tuple(words)] = observe(capsys, caplog, tiny, words)
    assert changed != observed[tuple(words)] or found[0] != attributes[0]
    assert changed["status"] != 2 or len(changed["err"]) == 1
