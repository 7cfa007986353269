"""A checkpoint from a stranger names a server, an archive and a directory: none of them is reached."""

import pytest
import torch

from lightning_cifar import CIFAR10DataModule, main
from lightning_cifar.sources import download
from lightning_cifar.train.checkpoint import load_checkpoint, save_checkpoint


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    ["test", "fit", *(pytest.param(one, marks=pytest.mark.slow) for one in ("validate", "predict", "export"))],
)
@pytest.mark.parametrize("dataset", ["cifar10", "folder"])
def test_only_the_user_says_where_data_lies(
    trained, image_folder, tmp_path, tiny, capsys, monkeypatch, command, dataset
):
    requested = []

    def refuse(request, *_):
        requested.append(request.full_url)
        raise OSError("no network")

    monkeypatch.setattr(download, "open_url", refuse)
    monkeypatch.setattr(download, "PAUSES", (0,))
    content = load_checkpoint(trained / "checkpoints/last.ckpt")
    theirs = {"url": "http://stranger/x", "root": str(image_folder), "archive": str(tmp_path / "theirs.tar.gz")}
    content["datamodule_hyper_parameters"] |= theirs | {"dataset": dataset}
    save_checkpoint(content, tmp_path / "theirs.ckpt")
    before = sorted(image_folder.rglob("*"))
    args = {"export": ["--output", "x.safetensors"], "fit": [*tiny, "--data.dataset", dataset]}.get(command, [])
    status = main([command, *args, "--ckpt_path", "theirs.ckpt"])
    out, err = capsys.readouterr()
    assert (status, len(err.splitlines())) == ((0, 0) if command == "export" else (2, 1))
    assert not any("stranger" in url for url in requested)
    assert str(image_folder) not in out + err
    assert "theirs.tar.gz" not in out + err
    assert sorted(image_folder.rglob("*")) == before


@pytest.mark.slow
def test_sources_are_never_taken_from_a_checkpoint(trained, tmp_path):
    checkpoint = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    foreign = {"url": "http://127.0.0.1:9/x", "archive": "/absent", "root": str(tmp_path), "dataset": "cifar10"}
    checkpoint["datamodule_hyper_parameters"] |= foreign
    torch.save(checkpoint, tmp_path / "foreign.ckpt")
    data = CIFAR10DataModule.load_from_checkpoint(tmp_path / "foreign.ckpt", root="mine")
    assert [data.hparams[name] for name in ("dataset", "root", "url", "archive")] == ["cifar10", "mine", None, None]
