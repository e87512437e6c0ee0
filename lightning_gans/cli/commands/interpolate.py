"""``lightning-gans interpolate``: pictures between seeds, labels or, in a VAE, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_gans.cli.outputs import (
    check_labels,
    check_not_read,
    check_pictures,
    load_model,
    parse_integers,
    read_pictures,
)
from lightning_gans.errors import SettingError, check_counts, check_positive, printable
from lightning_gans.io.files import check_suffix
from lightning_gans.io.pictures import check_sheet, grid, save_png
from lightning_gans.latents.walks import interpolated
from lightning_gans.models import GenerativeModule
from lightning_gans.training.sampling import decoded


def run(
    checkpoint: str,
    output: str,
    seeds: str | None = None,
    labels: str | None = None,
    pictures: Sequence[str] | None = None,
    steps: int = 8,
    truncation: float | None = None,
    ema: bool = True,
    device: str = "auto",
    imports: Sequence[str] = (),
) -> None:
    """Write a row of pictures between stops, or a row per class."""
    path = check_suffix(output)
    check_not_read(path, pictures or ())
    check_counts(least=2, **{"--steps": steps})
    if truncation is not None:
        check_positive(truncation=truncation)
    if pictures and (seeds or truncation is not None):
        raise SettingError("--pictures replaces the seeds: remove --seeds and --truncation.", setting="--pictures")
    seed_list, label_list = parse_integers("seeds", seeds), parse_integers("labels", labels)
    model = load_model(checkpoint, device, imports)
    check_pictures(model)
    check_labels(model, labels, label_list)
    if not pictures and not seed_list:
        num_seeds = 1 if len(label_list) > 1 else 2  # with several labels only the label changes
        seed_list = torch.randint(2**31, (num_seeds,)).tolist()
    given = len(pictures or seed_list)
    stops = max(given, len(label_list))
    if stops < 2 or {given, len(label_list) or 1} - {1, stops}:
        raise SettingError(
            f"got {given} {'pictures' if pictures else 'seeds'} and {len(label_list)} labels: "
            "give at least two of one kind, and one or the same number of the other.",
            setting="--pictures" if pictures else "--seeds",
            value=given,
        )
    rows = [label_list] if label_list or model.num_classes == 0 else [[label] for label in range(model.num_classes)]
    num = (stops - 1) * (steps - 1) + 1
    check_sheet("--steps", steps, num * len(rows), num, model.image_shape)
    with torch.no_grad(), model.evaluating():
        if pictures:
            images = read_pictures([Path(picture) for picture in pictures], model)
            points = _encoded(model, images, label_list, ema)
        else:
            points = torch.cat([model.latents(1, seed=seed, truncation=truncation, ema=ema) for seed in seed_list])
        points = points.expand(stops, -1) if given == 1 else points
    way = interpolated(points, steps - 1, straight=bool(pictures))
    strips = [decoded(model, way, _label_way(model, row, stops, steps), ema) for row in rows]
    names = [str(row[0]) for row in rows] if len(rows) > 1 else None
    save_png(grid(torch.cat(strips), columns=len(way), row_labels=names), path)
    between = "" if pictures else f", seeds {','.join(map(str, seed_list))}"
    print(printable(f"{len(way)} pictures{' for each class' if names else ''}{between}: {path}"))


def _label_way(model: GenerativeModule, labels: Sequence[int], stops: int, steps: int) -> Tensor | None:
    """Return the label of each picture: a class if there is only one, otherwise weights of the classes."""
    if not labels:
        return None
    if len(set(labels)) == 1:
        return torch.full(((stops - 1) * (steps - 1) + 1,), labels[0])
    return interpolated(F.one_hot(torch.tensor(labels), model.num_classes).float(), steps - 1, straight=True)


def _encoded(model: Any, images: Tensor, labels: Sequence[int], ema: bool) -> Tensor:
    """Return the posterior means of pictures, or of one picture under each label."""
    if not hasattr(model, "encode"):
        raise SettingError(f"--pictures: a {type(model).__name__} has no encoder; use --seeds.", setting="--pictures")
    if model.num_classes > 0 and not labels:
        raise SettingError(
            "--pictures: the model is conditional; add one label for all, or one label each.", setting="--labels"
        )
    images = images.expand(max(len(images), len(labels)), -1, -1, -1)
    chosen = torch.tensor(labels).expand(len(images)).to(model.device) if labels else None
    mean: Tensor = model.encode(images.to(model.device).to(model.dtype), chosen, ema=ema)[0]
    return mean.float().cpu()
