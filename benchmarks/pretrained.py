"""Write the packaged model: a checkpoint of a ``repeat`` as half-precision safetensors.

    python benchmarks/pretrained.py RUN_DIR --result benchmarks/results/RECIPE.json
    python benchmarks/pretrained.py --calibration TEST_DIR

RUN_DIR is a directory of ``repeat``. The first seed is taken, not the best, so that its accuracy is not selected. The
file's metadata comes from RESULT, the recipe's evidence.

TEST_DIR is a directory of ``test``, of the same configuration trained with ``--data.held_out val``. The temperature
that it fitted is added to the packaged model, for which no image may have been held out.
"""

import argparse
import json
from pathlib import Path

from lightning_cifar import ImageClassifier, load_pretrained
from lightning_cifar.run.settings.from_checkpoint import checkpoint_config
from lightning_cifar.run.weights import PRETRAINED, read_weights, save_weights

LARGEST = 6_000_000  # bytes


def make(run_dir: Path, evidence: Path) -> None:
    result = json.loads(evidence.read_text())
    first, *_ = result["seeds"]
    checkpoint = run_dir / first["directory"] / "checkpoints/last.ckpt"
    model = ImageClassifier.load_from_checkpoint(checkpoint)
    save_weights(
        model,
        PRETRAINED,
        held_out=checkpoint_config(checkpoint)["data"]["held_out"],
        half=True,
        recipe=first["run"]["recipe"],
        data=result["data"],
        seed=first["seed"],
        images=first["run"]["data"]["test"],
        accuracy=first["accuracy"],
        accuracy_without_tta=first["accuracy_without_tta"],
        recipe_accuracy={name: result["accuracy"][name] for name in ("n", "mean", "std", "interval")},
        command=result["command"],
    )
    size = PRETRAINED.stat().st_size
    assert size <= LARGEST, f"{size:,} bytes are too many"
    print(f"{PRETRAINED}: {size:,} bytes")


def calibrate(test_dir: Path) -> None:
    facts = read_weights(PRETRAINED).facts
    facts["temperature"] = json.loads((test_dir / "test.json").read_text())["temperature"]
    save_weights(load_pretrained(), PRETRAINED, half=True, **facts)
    print(f"{PRETRAINED}: temperature {facts['temperature']:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, nargs="?")
    parser.add_argument("--result", type=Path)
    parser.add_argument("--calibration", type=Path)
    known = parser.parse_args()
    if known.run_dir:
        make(known.run_dir, known.result)
    if known.calibration:
        calibrate(known.calibration)
