"""``lightning-gans sample``: write pictures or sequences from a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from lightning_gans.cli.outputs import check_output, check_sheet, load_model, open_output, parse_integers, progress
from lightning_gans.errors import SettingError, check_positive

_BLOCK = 250
_MOST = 10**8


def run(
    checkpoint: str,
    output: str,
    num_samples: int | None = None,
    labels: str | None = None,
    seed: int | None = None,
    truncation: float | None = None,
    ema: bool = True,
    device: str = "auto",
    imports: Sequence[str] = (),
) -> None:
    """Generate samples and write them."""
    path = check_output(output)
    if num_samples is not None:
        check_positive(num_samples=num_samples)
        if num_samples > _MOST:
            message = f"num_samples is {num_samples}: it must be {_MOST:,} or less."
            raise SettingError(message, setting="num_samples", value=num_samples, allowed=f"at most {_MOST}")
    if truncation is not None:
        check_positive(truncation=truncation)
    given = parse_integers("labels", labels)
    model = load_model(checkpoint, device, imports)
    num = num_samples or len(given) or 64
    columns = model.num_classes if model.num_classes > 0 and not given else None
    if path.suffix == ".png" and model.makes_pictures:
        check_sheet("--num_samples", num, num, columns, model.image_shape)
    all_labels = None
    if given:
        all_labels = torch.tensor(given).repeat(math.ceil(num / len(given)))[:num]
    elif model.num_classes > 0:
        all_labels = torch.arange(num) % model.num_classes
    seed = seed if seed is not None else int(torch.randint(2**31, ()))
    # The sample() of a custom model may not have truncation.
    more: dict[str, Any] = {} if truncation is None else {"truncation": truncation}
    with open_output(path, num, tuple(model.image_shape), all_labels, columns) as write:
        for start in progress(range(0, num, _BLOCK), "Samples"):
            count = min(_BLOCK, num - start)
            some = None if all_labels is None else all_labels[start : start + count]
            write(model.sample(count, some, seed=seed, start=start, ema=ema, **more))
    print(f"{num} samples, seed {seed}: {path}")
