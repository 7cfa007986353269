"""Results of `repeat` that are damaged, compared, or rest on two seeds."""

import json
import os
import shutil

import pytest

from tests.command_line import run


@pytest.mark.parametrize("content", [b"", b"[]", b'{"seed": 0', b"\xff", b"[" * 100_000, None])
def test_a_damaged_seed_is_one_line(repeated, capsys, tmp_path, tiny, content):
    run_dir = shutil.copytree(repeated, tmp_path / "run")
    file = run_dir / "seed1.json"
    file.unlink()
    os.mkfifo(file) if content is None else file.write_bytes(content)
    before = (run_dir / "repeat.json").read_bytes()
    status, _, err = run(capsys, "repeat", "--n", "2", *tiny, "--run_dir", run_dir)
    assert (status, len(err.splitlines()), err.startswith(f"error: {file} is damaged (")) == (2, 1, True)
    assert err.endswith("): delete it, and run the same command to test this seed again\n")
    assert (run_dir / "repeat.json").read_bytes() == before


@pytest.mark.parametrize("lines", [slice(0, 200), slice(0, 0), slice(1, None)])
def test_predictions_that_are_not_complete_are_named(repeated, capsys, tmp_path, tiny, lines):
    run_dir = shutil.copytree(repeated, tmp_path / "run")
    file = run_dir / "seed0/predictions.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[lines]))
    status, _, err = run(capsys, "repeat", "--n", "2", *tiny, "--run_dir", run_dir)
    assert (status, err.startswith(f"error: {file} cannot be read (")) == (2, True)
    assert err.endswith("delete seed0.json, and run the same command to test this seed again\n")


@pytest.mark.parametrize("device", ["[0]", "0,", "1", "[1]"])
def test_one_device_by_its_index(repeated, capsys, tiny, device):
    """Seeds on different devices belong together."""
    assert run(capsys, "repeat", "--n", "2", *tiny, "--trainer.devices", device, "--run_dir", repeated)[0] == 0


def write_result(directory, accuracies, recipe):
    times = {"train_seconds": 1.0, "fit_seconds": 2.0, "run": {"recipe": recipe}}
    directory.mkdir()
    seeds = [{"accuracy": one, "accuracy_without_tta": one, **times} for one in accuracies]
    (directory / "repeat.json").write_text(json.dumps({"seeds": seeds}))
    return directory


def test_compare_prints_difference_interval_and_significance(capsys, tmp_path):
    first = write_result(tmp_path / "a", [0.80, 0.81, 0.82], "fast")
    second = write_result(tmp_path / "b", [0.84, 0.85, 0.86], "fast")
    status, out, _ = run(capsys, "repeat", "--compare", first / "repeat.json", second / "repeat.json")
    assert status == 0
    (row,) = (line.split() for line in out.splitlines() if line.startswith("test accuracy"))
    assert row == ["test", "accuracy,", "%", "81.00", "85.00", "4.00", "1.73", "to", "6.27", "yes", "3"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is not a result of repeat: name its repeat.json"),
        ("no JSON", "is not a result of repeat: name its repeat.json"),
        (
            '{"seeds": [{"accuracy": 0.8}]}',
            "is not a result of repeat, it lacks accuracy_without_tta: name its repeat.json",
        ),
        (
            '{"seeds": [{"accuracy": "high", "accuracy_without_tta": 0, "train_seconds": 0, "fit_seconds": 0}]}',
            "is not a result of repeat: name its repeat.json",
        ),
        ('{"seeds": []}', " must have at least two seeds, got 0"),
    ],
)
def test_compare_refuses_other_files(capsys, tmp_path, content, message):
    file = tmp_path / "other.json"
    file.write_text(content)
    status, _, err = run(capsys, "repeat", "--compare", file, file)
    assert status == 2
    assert err.startswith(f"error: --compare {file}")
    assert err.endswith(f"{message}\n")


def test_directories_are_compared_by_recipe_within_the_possible(capsys, tmp_path):
    first = write_result(tmp_path / "a", [0.01, 0.8], "fast")
    second = write_result(tmp_path / "b", [0.99, 0.7, 0.8], "accurate")
    _, out, _ = run(capsys, "repeat", "--compare", first, second / "repeat.json")
    head, row, *_, note = out.splitlines()
    assert head.split()[:5] == ["accurate", "-", "fast", "fast", "accurate"]
    assert row.split()[5:9] == ["42.50", "-100.00", "to", "100.00"]
    assert note == "fast: only two seeds; the intervals are wide"
    third = write_result(tmp_path / "c", [0.5, 0.6, 0.7], "fast")
    assert run(capsys, "repeat", "--compare", first, third)[1].split()[:3] == ["c", "-", "a"]
    (tmp_path / "other").mkdir()
    fourth = third.rename(tmp_path / "other/a")
    assert run(capsys, "repeat", "--compare", first, fourth)[1].split()[:3] == [str(fourth), "-", str(first)]


def test_a_result_is_not_compared_with_itself(capsys, tmp_path):
    first = write_result(tmp_path / "a", [0.1, 0.2], "fast")
    copy = shutil.copytree(first, tmp_path / "copy")
    for other in (first, first / "repeat.json", tmp_path / "a/../a", copy):
        status, _, err = run(capsys, "repeat", "--compare", first, other)
        assert (status, err.startswith(f"error: --compare {first} ")) == (2, True)


@pytest.mark.parametrize(
    ("accuracies", "words"),
    [
        ([0.9, 94.1], "{}: accuracy must be in [0, 1], got 94.1"),
        ([0.9, float("nan")], "{}: accuracy must be in [0, 1], got nan"),
        ([-0.1, 0.9], "{}: accuracy must be in [0, 1], got -0.1"),
        (None, "{}/repeat.json cannot be read: No such file or directory"),
    ],
)
def test_results_that_cannot_be_compared_are_explained(capsys, tmp_path, accuracies, words):
    good, bad = write_result(tmp_path / "a", [0.1, 0.2], "fast"), tmp_path / "b"
    bad.mkdir() if accuracies is None else write_result(bad, accuracies, "fast")
    status, _, err = run(capsys, "repeat", "--compare", good, bad)
    assert (status, err) == (2, f"error: --compare {words.format(bad, bad)}\n")


def test_a_single_run_is_not_compared(capsys, trained, tmp_path):
    good = write_result(tmp_path / "a", [0.1, 0.2], "fast")
    status, _, err = run(capsys, "repeat", "--compare", good, trained)
    assert (status, err.endswith("; it holds one run: report compares single runs\n")) == (2, True)


def test_results_of_different_data_get_a_line(capsys, tmp_path):
    words = "the fingerprints of their data differ"
    files = [write_result(tmp_path / name, [0.1, 0.2 + number / 10], "fast") for number, name in enumerate("ab")]
    assert words not in run(capsys, "repeat", "--compare", *files)[1]
    for number, directory in enumerate(files):
        result = json.loads((directory / "repeat.json").read_text())
        for seed in result["seeds"]:
            seed["run"] = {**seed.get("run", {}), "data": {"fingerprint": str(number)}}
        (directory / "repeat.json").write_text(json.dumps(result))
    assert words in run(capsys, "repeat", "--compare", *files)[1]


@pytest.mark.slow
def test_intervals_of_two_seeds_are_possible_and_marked(repeated, capsys, tmp_path, tiny):
    run_dir = shutil.copytree(repeated, tmp_path / "run")
    for seed, accuracy in ((0, 0.9), (1, 1.0)):
        file = run_dir / f"seed{seed}.json"
        result = json.loads(file.read_text()) | {"accuracy": accuracy, "fit_seconds": 1 + 100 * seed}
        file.write_text(json.dumps(result))
        test = json.loads((run_dir / f"seed{seed}/test.json").read_text())
        (run_dir / f"seed{seed}/test.json").write_text(json.dumps(test | {"accuracy": accuracy}))
    _, out, _ = run(capsys, "repeat", "--n", "2", *tiny, "--run_dir", run_dir)
    rows = {line.split(",")[0]: line for line in out.splitlines()}
    assert " 31.47 to 100.00 " in rows["test accuracy"]
    assert " 0.00 to 686.31 " in rows["fit time"]
    assert "two seeds: each interval rests on one difference and is wide; train three or more" in out
    assert run(capsys, "report", run_dir)[0] == 0
    assert "31.47 to 100.00 (n = 2)" in (run_dir / "report/report.html").read_text()


@pytest.mark.parametrize(
    "changes",
    [
        {"accuracy": "0.8"},
        {"accuracy": 83.5},
        {"train_seconds": float("nan")},
        {"seed": "1"},
        {"seed": 5},
        {"seed": -1},
    ],
)
def test_a_seed_with_impossible_numbers_is_damaged(repeated, capsys, tmp_path, tiny, changes):
    run_dir = shutil.copytree(repeated, tmp_path / "run")
    file = run_dir / "seed1.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    status, _, err = run(capsys, "repeat", "--n", "2", *tiny, "--run_dir", run_dir)
    assert (status, len(err.splitlines()), err.startswith(f"error: {file} is damaged (")) == (2, 1, True)


def test_numbers_that_are_texts_are_not_compared(capsys, tmp_path):
    good, bad = write_result(tmp_path / "a", [0.1, 0.2], "fast"), write_result(tmp_path / "b", ["0.1", "0.2"], "fast")
    message = f"error: --compare {bad}: accuracy must be a number, got '0.1'\n"
    assert run(capsys, "repeat", "--compare", good, bad) == (2, "", message)


@pytest.mark.slow
def test_only_files_of_seeds_are_summarised(repeated, capsys, tmp_path, tiny):
    """No copies of them; and a summary does not replace one."""
    run_dir = shutil.copytree(repeated, tmp_path / "run")
    shutil.copy(run_dir / "seed1.json", run_dir / "seed1-old.json")
    command = ["repeat", "--n", "2", *tiny, "--run_dir", run_dir, "--output"]
    for _ in range(2):
        assert run(capsys, *command, run_dir / "seeds.json")[0] == 0
    assert json.loads((run_dir / "seeds.json").read_text())["n"] == 2
    before = (run_dir / "seed1.json").read_bytes()
    status, _, err = run(capsys, *command, run_dir / "seed1.json")
    words = "such files hold the results of single seeds; name another file"
    assert (status, err) == (2, f"error: --output {run_dir / 'seed1.json'}: {words}\n")
    assert (run_dir / "seed1.json").read_bytes() == before


@pytest.mark.slow
def test_seeds_of_different_data_get_a_line(repeated, capsys, tmp_path, tiny):
    """Images were added between them, say; then the predictions are not compared."""
    words = "the fingerprints of the seeds' data differ"
    assert words not in run(capsys, "repeat", "--n", "2", *tiny, "--run_dir", repeated)[1]
    run_dir = shutil.copytree(repeated, tmp_path / "run")
    result = json.loads((run_dir / "seed1.json").read_text())
    result["run"]["data"] |= {"fingerprint": "another", "test": 300}
    (run_dir / "seed1.json").write_text(json.dumps(result))
    file = run_dir / "seed1/predictions.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:301]))
    status, out, _ = run(capsys, "repeat", "--n", "2", *tiny, "--run_dir", run_dir)
    assert (status, words in out, "pairs of seeds agree" in out) == (0, True, False)


@pytest.mark.parametrize("record", ["text", [1], {"data": "text"}, None])
def test_a_result_with_a_damaged_record_is_not_compared(capsys, tmp_path, record):
    good, bad = (write_result(tmp_path / name, [0.1, 0.2], "fast") for name in "ab")
    result = json.loads((bad / "repeat.json").read_text())
    for seed in result["seeds"]:
        seed |= {"run": record, "train_seconds": 5.0}
    (bad / "repeat.json").write_text(json.dumps(result))
    status, _, err = run(capsys, "repeat", "--compare", good, bad)
    message = f"error: --compare {bad} is not a result of repeat: name its repeat.json\n"
    assert (status, err) == ((0, "") if record is None else (2, message))


def test_compare_names_seeds_that_diverged(capsys, tmp_path):
    first, second = (write_result(tmp_path / name, [0.80, 0.81, 0.82], name) for name in "ab")
    file = second / "repeat.json"
    result = json.loads(file.read_text())
    result["seeds"][0]["accuracy"] = 0.83
    file.write_text(json.dumps(result | {"diverged": [{"seed": 3, "diverged": "the loss is NaN"}]}))
    status, out, _ = run(capsys, "repeat", "--compare", first, second)
    words = "b: 1 of 4 seeds diverged, not included in these statistics: 3"
    assert (status, out.splitlines()[-1]) == (0, words)
    file.write_text(json.dumps(result | {"diverged": 3}))
    status, _, err = run(capsys, "repeat", "--compare", first, second)
    assert (status, err) == (2, f"error: --compare {second} is not a result of repeat: name its repeat.json\n")
