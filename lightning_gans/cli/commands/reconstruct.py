"""``lightning-gans reconstruct``: pictures through a VAE's encoder and decoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lightning_gans.cli.outputs import (
    check_not_read,
    check_output,
    check_pictures,
    labels_of_pictures,
    load_model,
    open_output,
    parse_integers,
    picture_files,
    progress,
    read_pictures,
)
from lightning_gans.errors import SettingError, printable
from lightning_gans.io.pictures import check_sheet, grid, save_png

_BLOCK = 250
_COLUMNS = 10


def run(
    checkpoint: str,
    pictures: Sequence[str],
    output: str,
    labels: str | None = None,
    ema: bool = True,
    device: str = "auto",
    imports: Sequence[str] = (),
) -> None:
    """Reconstruct pictures and write them."""
    path = check_output(output)
    given = parse_integers("labels", labels)
    files = picture_files([Path(picture) for picture in pictures])
    check_not_read(path, files)
    model: Any = load_model(checkpoint, device, imports)
    check_pictures(model)
    if not hasattr(model, "reconstruct"):
        raise SettingError(
            f"a {type(model).__name__} has no encoder: use the checkpoint of a VAE.", setting="checkpoint"
        )
    of_pictures = labels_of_pictures(model, labels, given, len(files))
    chosen = None if of_pictures is None else torch.tensor(of_pictures)
    columns = min(_COLUMNS, len(files))
    if path.suffix == ".png":
        check_sheet("number of PICTURES", len(files), 2 * len(files), columns, model.image_shape)

    def reconstructed(start: int) -> tuple[torch.Tensor, torch.Tensor]:
        images = read_pictures(files[start : start + _BLOCK], model)
        some = None if chosen is None else chosen[start : start + _BLOCK].to(model.device)
        return images, model.reconstruct(images, some, ema=ema).cpu()

    starts = progress(range(0, len(files), _BLOCK), "Reconstructions")
    if path.suffix == ".png":
        images, made = (torch.cat(part) for part in zip(*map(reconstructed, starts), strict=True))
        pairs = [part[i : i + columns] for i in range(0, len(files), columns) for part in (images, made)]
        if len(pairs[-1]) < columns:  # fill the last two rows with white
            blank = torch.ones(columns - len(pairs[-1]), *images.shape[1:])
            pairs[-2:] = [torch.cat([part, blank]) for part in pairs[-2:]]
        save_png(grid(torch.cat(pairs), columns=columns), path)
    else:
        with open_output(path, len(files), tuple(model.image_shape), chosen, scale=model.image_scale) as write:
            for start in starts:
                write(reconstructed(start)[1])
    print(printable(f"{len(files)} pictures: {path}"))
