"""True float32 arithmetic, whatever the trainer or the user has allowed for training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def true_float32(device: torch.device | str) -> Iterator[None]:
    """Neither autocast nor TF32 nor bfloat16 inside the block, and the same algorithm each time.

    Only torch's newer switches are touched, as asking the older ones raises an error once both were used.
    """
    backends: Any = torch.backends  # its switches are not all typed
    switches = [backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv]
    precisions = [switch.fp32_precision for switch in switches]
    chosen = backends.cudnn.benchmark, backends.cudnn.deterministic
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        backends.cudnn.benchmark, backends.cudnn.deterministic = False, True
        with torch.autocast(torch.device(device).type, enabled=False):
            yield
    finally:
        for switch, precision in zip(switches, precisions, strict=True):
            switch.fp32_precision = precision
        backends.cudnn.benchmark, backends.cudnn.deterministic = chosen
