"""The option ``--device``."""

from __future__ import annotations

import torch

from lightning_gans.errors import SettingError, first_line


def find_device(name: str) -> torch.device:
    """Return the device of a setting; ``auto`` is CUDA if available."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device).cpu()  # fails for "meta", whose tensors have no data
        if device.type == "cpu" and device.index:  # torch treats every index as the same CPU
            raise ValueError("there is only one cpu")
    except Exception as error:  # devices of other builds of torch raise errors of any type
        message = f"--device is {name!r}: {first_line(error)}."
        raise SettingError(message, setting="--device", value=name) from None
    return device
