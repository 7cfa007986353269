"""States of the random generators that training draws from, as plain values."""

import random
from typing import Any

import numpy as np
import torch


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
