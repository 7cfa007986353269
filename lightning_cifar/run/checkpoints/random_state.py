"""The states of all random generators used in training."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def get_random_states() -> dict[str, Any]:
    """Return the states of the generators of torch, CUDA, Python and NumPy, as plain values and tensors."""
    name, keys, *rest = tuple(np.random.get_state(legacy=True))
    version, words, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        # Only of this process's device: all processes draw equal numbers. None if CUDA was not used.
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "python": [version, torch.tensor(words), gauss],  # a list of 625 numbers would take 20 ms to write
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
    }


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Restore the states that `get_random_states` returned."""
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
