"""What Lightning's checkpoints lack: the states of the random generators; and what they have too much: counts.

Those are of the epoch that has ended, and Lightning would take them for the next one's.
"""

import random
from typing import Any

import numpy as np
import torch


def forget_current(progress: dict[str, Any]) -> None:
    """Sets what a loop's progress counts within the epoch to its start."""
    for name, value in progress.items():
        if name == "current":
            progress[name] = dict.fromkeys(value, 0)
        elif name == "is_last_batch":
            progress[name] = False
        elif isinstance(value, dict):
            forget_current(value)


def random_states() -> dict[str, Any]:
    """Of every generator that training may draw from, as plain values and tensors."""
    name, keys, *rest = tuple(np.random.get_state(legacy=True))
    version, words, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        # Of this process's device: all processes draw the same, each on its own. On a CPU, no GPU is woken for it.
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "python": [version, torch.tensor(words), gauss],  # not as 625 numbers, which take 20 ms to write
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
