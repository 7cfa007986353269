"""`report` from the command line: one run, several seeds, two configurations, damaged files."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from lightning_cifar.commands.report.runs import read_runs
from lightning_cifar.evaluate.statistics import summarise
from lightning_cifar.run.figures.image_sheet import cut_sheet
from lightning_cifar.sources.digits import load_digits
from tests.command_line import run


@pytest.fixture
def copied(runs, tmp_path):
    """A copy of the runs, to change."""
    shutil.copytree(runs, tmp_path / "runs")
    return tmp_path / "runs"


def change_json(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def seed_of(copied, place, seed, accuracy, **model):
    """Another run, as `repeat` leaves its seeds, with a test of its own."""
    made = copied / place
    shutil.copytree(copied / "demo/run", made)
    for name in ("test.json", "mistakes.png"):
        shutil.copy(copied / "test/one" / name, made)
    change_json(made / "test.json", checkpoint="checkpoints/last.ckpt", accuracy=accuracy)
    config = yaml.safe_load((made / "config.yaml").read_text())
    config["model"] |= model
    (made / "config.yaml").write_text(yaml.safe_dump(config | {"seed_everything": seed}))
    return made


def cells(page, name):
    """Of the first table that has it, a row's cells, tags left out."""
    (row, *_) = re.findall(rf'<tr><th scope="row">{re.escape(name)}</th>(.*?)</tr>', page, re.DOTALL)
    return [re.sub("<[^>]+>", " ", cell).strip() for cell in re.findall("<td>(.*?)</td>", row, re.DOTALL)]


@pytest.mark.slow
def test_a_page_holds_all_results_of_a_run(runs, capsys, tmp_path, drawn_figures):
    status, out, err = run(capsys, "report", runs / "demo/run", "--output", tmp_path / "out")
    assert (status, out, err) == (0, f"report: {tmp_path / 'out/report.html'}\n", "")
    page = (tmp_path / "out/report.html").read_text()
    test = json.loads((runs / "test/one/test.json").read_text())
    assert cells(page, "test accuracy, %") == [f"{100 * test['accuracy']:.2f}"]
    assert cells(page, "balanced test accuracy, %") == [f"{100 * test['balanced_accuracy']:.2f}"]
    three = test["per_class"]["3"]
    assert cells(page, "3") == [f"{100 * three['recall']:.2f}", f"{three['images']}"]
    timings = json.loads((runs / "demo/run/run.json").read_text())["timings"]
    assert cells(page, "fit time, s") == [f"{timings['fit_seconds']:,.1f}"]
    assert cells(page, "data fingerprint") == [
        json.loads((runs / "demo/run/run.json").read_text())["data"]["fingerprint"]
    ]
    assert len(test["mistakes"]) == 24
    assert page.count('alt="test image ') == 24
    worst = test["mistakes"][0]
    assert f"<b>{worst['prediction']}</b>: {100 * worst['probability']:.1f}&nbsp;%" in page
    assert f"fit --config {runs / 'demo/run/config.yaml'}" in page
    for name in ("loss", "accuracy", "confusion", "calibration", "risk"):
        with Image.open(tmp_path / f"out/{name}.png") as picture:
            assert picture.size == (780, 660)
    assert "Missing, partial or damaged" not in page
    # The page is self-contained.
    assert set(re.findall(r'(?:src|href)="(.{8})', page)) == {"data:ima"}
    assert not re.search(r"<script|<link|https?://|url\(", page)


def test_mistakes_are_images_of_the_test_set(runs):
    images, labels = load_digits().test.images, load_digits().test.labels
    with Image.open(runs / "test/one/mistakes.png") as sheet:
        assert sheet.size == (8 * 102 + 6, 3 * (102 + 2 * 16) + 6)
        pixels = [np.asarray(tile)[::3, ::3] for tile in cut_sheet(sheet, 24, lines=2)]
        captions = np.asarray(sheet)[6 + 96 : 6 + 96 + 2 * 16]
        assert captions.min() < 50  # what was predicted and what is true
    for mistake, picture in zip(json.loads((runs / "test/one/test.json").read_text())["mistakes"], pixels, strict=True):
        assert (picture == images[mistake["index"]].permute(1, 2, 0).numpy()).all()
        assert mistake["label"] == str(labels[mistake["index"]].item())


@pytest.mark.slow
def test_seeds_of_a_repeat_are_summarised(copied, capsys):
    accuracies = [0.5, 0.6, 0.55]
    for seed, accuracy in enumerate(accuracies):
        seed_of(copied, f"repeat/seed{seed}", seed, accuracy)
    (copied / "repeat/repeat.json").write_text('{"command": "python -m lightning_cifar repeat --n 3"}')
    status, out, _ = run(capsys, "report", copied / "repeat")
    assert (status, out) == (0, f"report: {copied / 'repeat/report/report.html'}\n")
    page = (copied / "repeat/report/report.html").read_text()
    wanted = summarise([100 * accuracy for accuracy in accuracies])
    low, high = wanted["interval"]
    (found,) = cells(page, "test accuracy, %")
    assert found == f"{wanted['mean']:.2f} ± {wanted['std']:.2f} {low:.2f} to {high:.2f}"
    assert cells(page, "runs") == ["3"]
    assert page.count("<tr><td>demo</td><td>") == 3
    assert "python -m lightning_cifar repeat --n 3" in page
    assert "Differences in configuration" not in page


@pytest.mark.slow
def test_the_same_seed_twice_is_not_two_seeds(copied, capsys):
    for name in ("a", "b"):
        seed_of(copied, f"demo/{name}", 5, 0.5)
    run(capsys, "report", copied / "demo/a", copied / "demo/b")
    page = (copied / "demo/a/report/report.html").read_text()
    assert cells(page, "runs") == ["1", "1"]
    assert '<th scope="col">demo (a)</th><th scope="col">demo (b)</th>' in page


@pytest.mark.slow
def test_two_configurations_are_compared(copied, capsys, tmp_path):
    for place, accuracies, rate in (("a", (0.50, 0.51), 0.001), ("b", (0.70, 0.72), 0.01)):
        for seed, accuracy in enumerate(accuracies):
            seed_of(copied, f"{place}/seed{seed}", seed, accuracy, learning_rate=rate)
    status, *_ = run(capsys, "report", copied / "a", copied / "b", "--output", tmp_path / "out")
    page = (tmp_path / "out/report.html").read_text()
    assert status == 0
    assert page.split("Differences in configuration")[1].count("<tr>") == 2 + page.split("Environment")[1].count("<tr>")
    assert cells(page, "model.learning_rate") == ["0.001", "0.01"]
    first, second = (rf"demo \(learning_rate {rate}\)" for rate in ("0.001", "0.01"))
    assert re.search(
        rf"{second} minus that of {first}: \+20.50 points \(95 % interval [^)]*[)], statistically distinguishable", page
    )
    assert (tmp_path / "out/confusion-2.png").exists()


@pytest.mark.slow
def test_figures_of_an_earlier_report_are_deleted(copied, capsys, tmp_path):
    out, mine = tmp_path / "out", {"loss-of-mine.png", "risk-2024-final.png", "loss-2.png"}
    seed_of(copied, "wide", 0, 0.7, widths=[8, 8, 16, 16, 32])
    run(capsys, "report", copied / "demo/run", copied / "wide", "--output", out)
    assert (out / "risk-2.png").exists()
    for name in mine:
        (out / name).touch()
    run(capsys, "report", copied / "demo/run", "--output", out)
    kept = {"accuracy.png", "calibration.png", "confusion.png", "loss.png", "risk.png", *mine}
    assert {file.name for file in out.glob("*.png")} == kept


def test_images_that_are_of_no_report_are_not_replaced(trained, capsys, tmp_path):
    (tmp_path / "accuracy.png").write_text("mine")
    status, _, err = run(capsys, "report", trained, "--output", tmp_path)
    words = "accuracy.png is of no report and would be replaced; name another directory"
    assert (status, err) == (2, f"error: --output {tmp_path}: {words}\n")
    assert (tmp_path / "accuracy.png").read_text() == "mine"


@pytest.mark.slow
def test_an_interrupted_report_is_repeated_in_its_directory(copied, capsys, tmp_path, monkeypatch):
    args = ["report", copied / "demo/run", "--output", tmp_path / "out"]

    def interrupt(figure, **_):
        if (tmp_path / "out/confusion.png").exists():
            raise KeyboardInterrupt
        return b"a figure"

    with monkeypatch.context() as patched:
        patched.setattr("lightning_cifar.commands.report.page.render_figure", interrupt)
        assert run(capsys, *args)[0] == 130
    assert not (tmp_path / "out/report.html").exists()
    assert run(capsys, *args)[0] == 0
    assert [*(tmp_path / "out").glob(".unfinished*")] == []


@pytest.mark.slow
def test_a_test_leads_to_its_run(copied, capsys):
    """And a run to its test."""
    for named in ("demo/run", "test/one"):
        run(capsys, "report", copied / named)
    pages = [(copied / named / "report/report.html").read_text() for named in ("demo/run", "test/one")]
    assert pages[0] == pages[1]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["test/two", pytest.param("demo/run/tested", marks=pytest.mark.slow)])
def test_the_test_is_found_from_anywhere(copied, capsys, monkeypatch, place):
    shutil.rmtree(copied / "test/one")
    monkeypatch.chdir(copied)
    checkpoint = "demo/run/checkpoints/last.ckpt"
    assert run(capsys, "test", "--ckpt_path", checkpoint, "--run_dir", place)[0] == 0
    os.utime(checkpoint, (2e9, 2e9))  # copied, say, and still the same
    for here, named in ((copied, "demo/run"), (copied / "demo", "run"), (copied / "demo/run", ".")):
        monkeypatch.chdir(here)
        status, out, _ = run(capsys, "report", named)
        assert (status, out) == (0, f"report: {Path(named, 'report/report.html')}\n")


def test_a_test_of_an_earlier_checkpoint_is_skipped(copied, capsys):
    with (copied / "demo/run/checkpoints/last.ckpt").open("ab") as checkpoint:
        checkpoint.write(b"trained on since")
    status, out, _ = run(capsys, "report", copied / "demo/run")
    first = f"note: {copied / 'test/one'} tested an earlier checkpoint of {copied / 'demo/run'}: "
    assert (status, out.startswith(first)) == (0, True)
    assert "Test results" not in (copied / "demo/run/report/report.html").read_text()


def test_a_test_without_its_run_is_reported(copied, capsys):
    shutil.rmtree(copied / "demo")
    status, out, _ = run(capsys, "report", copied / "test/one")
    page = (copied / "test/one/report/report.html").read_text()
    assert (status, len(out.splitlines())) == (0, 1)
    assert ("Test results" in page, "Curves" in page) == (True, False)


def test_a_run_without_a_test(trained, capsys, tmp_path):
    trained = shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("tests.json"))
    status, out, _ = run(capsys, "report", trained, "--output", tmp_path)
    assert status == 0
    command = f"python -m lightning_cifar test --ckpt_path {trained}"
    assert out.splitlines()[0] == f"note: {trained} was not tested: {command}"
    assert "Test results" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ended": "DivergenceError"}, "diverged: its loss or weights became NaN or infinite, or"),
        ({"ended": "SIGTERMException"}, "was stopped in training: python -m lightning_cifar fit --resume {run}"),
        ({"timings": {}}, "is still being trained, or was killed: python -m lightning_cifar fit --resume {run}"),
    ],
)
def test_how_a_run_ended_unless_in_order(copied, capsys, change, words):
    run_dir = copied / "demo/run"
    change_json(run_dir / "run.json", **change)
    status, out, _ = run(capsys, "report", run_dir)
    first, *others = out.splitlines()
    assert (status, len(others)) == (0, 1)
    assert first.startswith(f"note: {run_dir} {words.format(run=run_dir)}")
    assert words.split(":")[0] in (run_dir / "report/report.html").read_text()


def test_a_run_without_a_checkpoint_is_not_to_be_tested(trained, capsys, tmp_path):
    copied = shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("tests.json", "checkpoints"))
    status, out, _ = run(capsys, "report", copied)
    assert (status, out.splitlines()[0]) == (0, f"note: {copied} was not tested, and has no checkpoint")


def test_names_are_escaped(copied, capsys):
    evil = "<script>alert('1')</script>"
    file = copied / "test/one/test.json"
    test = json.loads(file.read_text())
    test["per_class"] = {evil + name: row for name, row in test["per_class"].items()}
    for mistake in test["mistakes"]:
        mistake["prediction"] = mistake["label"] = mistake["index"] = evil
    file.write_text(json.dumps(test))
    change_json(copied / "demo/run/run.json", git_commit=evil, command=[evil])
    config = copied / "demo/run/config.yaml"
    config.write_text(config.read_text().replace("recipe: demo", f'recipe: "{evil}"'))
    assert run(capsys, "report", copied / "demo/run")[0] == 0
    page = (copied / "demo/run/report/report.html").read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 50


SECTIONS = {  # what a file gives to the page
    "config.yaml": "config.yaml</summary>",
    "run.json": "Environment",
    "metrics.csv": "Curves",
    "test.json": "Test results",
}


@pytest.mark.parametrize(
    "contents",
    [
        (b"model: [", b'{"command": "x"}', b"epoch,step,val/loss\n0,1,x\n", b"[]"),
        (b"\xff\xfe\0", b"", b"\0\0", b'{"accuracy": 1'),
        (None, None, b"epoch,step\n", b"{}"),
    ],
)
def test_damaged_files_are_skipped_and_listed(copied, capsys, contents):
    directory = seed_of(copied, "other", 0, 0.5)  # all in one place
    for name, content in zip(SECTIONS, contents, strict=True):
        file = directory / name
        file.unlink() if content is None else file.write_bytes(content)
    status, out, err = run(capsys, "report", directory)
    page = (directory / "report/report.html").read_text()
    assert (status, err, len(out.splitlines())) == (0, "", 5)
    for name, section in SECTIONS.items():
        assert f"note: {directory / name} is " in out
        assert f"<li>{directory / name} is " in page
        assert section not in page


@pytest.mark.parametrize("form", ["none", "EPS", "a broken PNG"])
def test_mistakes_without_their_images(copied, capsys, form):
    """EPS would run a program."""
    file = copied / "test/one/mistakes.png"
    content = b"no picture"
    if form == "EPS":
        Image.open(file).save(file, "EPS")
        content = file.read_bytes()
    elif form == "a broken PNG":
        content = file.read_bytes().replace(b"IDAT", b"\0\0\0\0")
    file.write_bytes(content)
    status, out, _ = run(capsys, "report", copied / "demo/run")
    page = (copied / "demo/run/report/report.html").read_text()
    assert (status, out.startswith(f"note: {file} is ")) == (0, True)
    assert (page.count("<small>test image "), page.count('alt="test image ')) == (24, 0)


@pytest.mark.parametrize("field", ["confusion", "per_class", "reliability", "mistakes", "images"])
def test_a_test_that_is_partly_damaged(copied, capsys, field):
    change_json(copied / "test/one/test.json", **{field: [{}]})
    status, out, err = run(capsys, "report", copied / "demo/run")
    assert (status, err) == (0, "")
    assert "note: " in out
    assert cells((copied / "demo/run/report/report.html").read_text(), "training loss, last epoch")


@pytest.mark.slow
def test_very_many_classes_have_recalls_without_a_confusion_matrix(copied, capsys):
    """As `test` writes those of more than 1,000 classes; here two seeds, and a single one."""
    file = copied / "test/one/test.json"
    test = json.loads(file.read_text())
    classes = test["per_class"] | {f"class {number}": {"recall": None, "images": 0} for number in range(8000)}
    change_json(file, confusion=None, per_class=classes)
    for seed in (0, 1):
        seed_of(copied, f"repeat/seed{seed}", seed, 0.5)
    three = classes["3"]
    for directory in (copied / "demo/run", copied / "repeat"):
        status, out, err = run(capsys, "report", directory)
        assert (status, out, err) == (0, f"report: {directory / 'report/report.html'}\n", "")
        page = (directory / "report/report.html").read_text()
        assert cells(page, "balanced test accuracy, %")[0].startswith(f"{100 * test['balanced_accuracy']:.2f}")
        assert cells(page, "3") == [f"{100 * three['recall']:.2f}", f"{three['images']}"]
        assert cells(page, "class 7999") == ["–", "0"]
        assert "Missing, partial or damaged" not in page
        assert (directory / "report/calibration.png").exists()
        assert not (directory / "report/confusion.png").exists()


@pytest.mark.slow
def test_results_of_older_versions_are_read(copied, capsys):
    """They call the recall of a class accuracy, and have no balanced accuracy."""
    file = copied / "test/one/test.json"
    test = json.loads(file.read_text())
    balanced = test.pop("balanced_accuracy")
    test["per_class"] = {name: {"accuracy": row.pop("recall"), **row} for name, row in test["per_class"].items()}
    file.write_text(json.dumps(test))
    status, _, err = run(capsys, "report", copied / "demo/run")
    page = (copied / "demo/run/report/report.html").read_text()
    assert (status, err) == (0, "")
    assert cells(page, "balanced test accuracy, %") == [f"{100 * balanced:.2f}"]
    assert cells(page, "3")[0] == f"{100 * test['per_class']['3']['accuracy']:.2f}"


def test_bad_input_is_one_line(trained, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for args, message in (
        ([], "report: the following arguments are required: RUN_DIR"),
        (["--ouput", "x", trained], "report: unrecognized arguments: --ouput; did you mean --output?"),
        ([tmp_path / "none"], f"report {tmp_path / 'none'}: no such directory"),
        ([tmp_path / "file"], f"report {tmp_path / 'file'}: no such directory"),
        (
            [tmp_path / "empty"],
            f"report {tmp_path / 'empty'}: not a run directory: it has no config.yaml, metrics.csv or test.json",
        ),
        (
            [trained, "--output", tmp_path / "file"],
            f"--output {tmp_path / 'file'}: File exists; name another directory",
        ),
    ):
        assert run(capsys, "report", *args) == (2, "", f"error: {message}\n")


def test_one_test_of_several_seeds_says_so(copied, capsys):
    seed_of(copied, "demo/other", 7, 0.5)
    (copied / "demo/other/test.json").unlink()
    run(capsys, "report", copied / "demo/run", copied / "demo/other")
    page = (copied / "demo/run/report/report.html").read_text()
    assert cells(page, "test accuracy, %")[0].endswith("n = 1")
    assert cells(page, "training loss, last epoch")[0].endswith("(n = 2)")


@pytest.mark.slow
def test_a_report_imports_no_torch(runs, tmp_path):
    code = "import sys; from lightning_cifar import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code, "report", str(runs / "demo/run"), "--output", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["validate", "predict"])
def test_commands_without_results_are_named(trained, capsys, command):
    assert run(capsys, command, "--ckpt_path", trained, "--run_dir", "run")[0] == 0
    words = f"report run: {command} leaves nothing to report: name a directory of fit or test"
    assert run(capsys, "report", "run") == (2, "", f"error: {words}\n")


@pytest.mark.slow
@pytest.mark.parametrize("option", ["init_from", "ckpt_path"])
def test_runs_from_other_weights_are_other_configurations(copied, capsys, option):
    for seed in (0, 1):
        seed_of(copied, f"demo/{seed}", seed, 0.5)
    config = copied / "demo/1/config.yaml"
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {option: "runs/first"}))
    run(capsys, "report", copied / "demo/0", copied / "demo/1")
    page = (copied / "demo/0/report/report.html").read_text()
    assert cells(page, "runs") == ["1", "1"]
    assert cells(page, option) == ["null", "&#34;runs/first&#34;"]


@pytest.mark.parametrize("accuracy", [83.5, float("nan"), -1])
def test_an_accuracy_that_cannot_be_is_not_reported(copied, capsys, accuracy):
    change_json(copied / "test/one/test.json", accuracy=accuracy)
    _, out, _ = run(capsys, "report", copied / "demo/run")
    assert "test.json is damaged: InputError accuracy must be in [0, 1], got" in out
    assert "Test results" not in (copied / "demo/run/report/report.html").read_text()


@pytest.mark.parametrize("checkpoint", [5, ["x"], {}])
def test_a_test_that_names_no_file_is_reported_without_it(copied, capsys, checkpoint):
    change_json(copied / "test/one/test.json", checkpoint=checkpoint)
    assert run(capsys, "report", copied / "test/one")[0] == 0


def test_the_printed_commands_say_where_the_data_lies_and_whom_to_trust(copied, capsys, tmp_path):
    config = copied / "demo/run/config.yaml"
    settings = yaml.safe_load(config.read_text())
    settings["data"] |= {"root": "my images", "labels": "labels.csv"}
    config.write_text(yaml.safe_dump(settings))
    change_json(copied / "demo/run/run.json", command=["fit", "--trust_config", "mine,theirs"])
    assert run(capsys, "report", copied / "demo/run", "--output", tmp_path / "out")[0] == 0
    page = html.unescape((tmp_path / "out/report.html").read_text())
    assert f"fit --config {config} --trust_config mine,theirs\n" in page
    assert "last.ckpt --data.root 'my images' --data.labels labels.csv --trust_config mine,theirs</pre>" in page


@pytest.mark.slow
def test_training_that_ended_within_an_epoch_is_drawn_there(trained, capsys, tiny, tmp_path):
    """One step of four, as `--trainer.max_steps` allows in a lesson, is no epoch."""
    options = ["--trainer.limit_train_batches", "4", "--trainer.max_steps", "1", "--run_dir", tmp_path / "run"]
    assert run(capsys, "fit", *tiny, *options)[0] == 0
    timings = json.loads((tmp_path / "run/run.json").read_text())["timings"]
    assert (timings["epochs"], timings["steps"], timings["steps_per_epoch"]) == (0.25, 1, 4)
    (found,) = read_runs([tmp_path / "run"])
    assert [done for done, _ in found.series["train/loss_epoch"]] == [0.25]
    change_json(tmp_path / "run/run.json", timings={"steps_per_epoch": "many"})
    assert "steps_per_epoch must be a number, got 'many'" in "".join(read_runs([tmp_path / "run"])[0].problems)
    (older,) = read_runs([trained])
    assert [done for done, _ in older.series["train/loss_epoch"]] == [1]
