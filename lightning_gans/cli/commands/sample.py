"""``lightning-gans sample``: write pictures or sequences from a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch

from lightning_gans.cli.outputs import (
    check_output,
    labels_of_conditions,
    load_model,
    open_output,
    parse_integers,
    progress,
)
from lightning_gans.errors import SettingError, check_counts, check_positive, invalid, printable
from lightning_gans.io.pictures import check_sheet
from lightning_gans.training.sampling import labels_in_turn
from lightning_gans.training.statistics import standing_statistics as statistics

_BLOCK = 250
_MOST = 10**8


def run(
    checkpoint: str,
    output: str,
    num_samples: int | None = None,
    layout: str = "plain",
    labels: str | None = None,
    conditions: Sequence[str] = (),
    seed: int | None = None,
    truncation: float | None = None,
    standing_statistics: int | None = None,
    ema: bool = True,
    device: str = "auto",
    imports: Sequence[str] = (),
) -> None:
    """Generate samples and write them."""
    path = check_output(output)
    if layout == "adm" and path.suffix != ".npz":
        raise invalid("--output", output, "a name that ends in .npz for --layout adm")
    if num_samples is not None:
        check_positive(num_samples=num_samples)
        if num_samples > _MOST:
            message = f"num_samples is {num_samples}: it must be {_MOST:,} or less."
            raise SettingError(message, setting="num_samples", value=num_samples, allowed=f"at most {_MOST}")
    if truncation is not None:
        check_positive(truncation=truncation)
    if standing_statistics is not None:
        check_counts(standing_statistics=standing_statistics)
    given = parse_integers("labels", labels)
    if given and conditions:
        raise SettingError("--labels and --condition are both given: remove one of them.", setting="--condition")
    model = load_model(checkpoint, device, imports)
    num = num_samples or len(given) or len(conditions) or 64
    if layout == "adm" and not (model.makes_pictures and model.image_shape[0] in (1, 3)):
        made = f"images have {model.image_shape[0]} channels" if model.makes_pictures else "samples are sequences"
        message = f"the model's {made}, but --layout adm holds RGB images."
        raise SettingError(message, setting="--layout", value=layout, allowed="plain")
    by_class = model.num_classes > 0 and model.attributes is None and not given
    columns = model.num_classes if by_class else None
    if path.suffix == ".png" and model.makes_pictures:
        check_sheet("--num_samples", num, num, columns, model.image_shape)
    all_labels = labels_in_turn(model, num)
    if given:
        all_labels = torch.tensor(given).repeat(math.ceil(num / len(given)))[:num]
    elif conditions:
        all_labels = labels_of_conditions(model, conditions, num)
    seed = seed if seed is not None else int(torch.randint(2**31, ()))
    # The sample() of a custom model may not take truncation.
    more: dict[str, Any] = {} if truncation is None else {"truncation": truncation}
    standing = nullcontext() if standing_statistics is None else statistics(model, standing_statistics, ema=ema, **more)
    scale = model.image_scale
    written = all_labels
    if all_labels is not None and all_labels.dim() > 1 and model.attributes is not None:
        written = model.attributes.restore(all_labels)
    with standing, open_output(path, num, tuple(model.image_shape), written, columns, layout, scale) as write:
        for start in progress(range(0, num, _BLOCK), "Samples"):
            count = min(_BLOCK, num - start)
            some = None if all_labels is None else all_labels[start : start + count]
            write(model.sample(count, some, seed=seed, start=start, ema=ema, **more))
    print(printable(f"{num} samples, seed {seed}: {path}"))
