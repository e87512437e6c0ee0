"""``lightning-gans invert``: the latents, and the images of a model, that are closest to pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_gans.cli.outputs import (
    check_not_read,
    check_pictures,
    labels_of_pictures,
    load_model,
    parse_integers,
    picture_files,
    progress,
    read_pictures,
)
from lightning_gans.cli.run_folder import RunFolder, step_of
from lightning_gans.errors import invalid, printable
from lightning_gans.io.files import check_suffix, replacing
from lightning_gans.io.pictures import check_sheet, grid, save_png
from lightning_gans.latents import Inversion, invert
from lightning_gans.latents.inversion import check_inversion
from lightning_gans.metrics.extractors import BUILT_IN, make_extractor

_BLOCK = 12


def run(
    checkpoint: str,
    pictures: Sequence[str],
    output: str,
    latents: str | None = None,
    labels: str | None = None,
    steps: int = 200,
    lr: float = 0.1,
    starts: int = 4,
    seed: int = 0,
    extractor: str = "auto",
    weights_path: str | None = None,
    feature_weight: float = 0.1,
    ema: bool = True,
    device: str = "auto",
    imports: Sequence[str] = (),
) -> None:
    """Write each picture beside its reconstruction, with their distance, and the latents."""
    path = check_suffix(output)
    latents_path = None if latents is None else check_suffix(latents, (".npz",), "--latents")
    check_inversion(steps=steps, lr=lr, starts=starts, feature_weight=feature_weight)
    uses_extractor = extractor != "none" and feature_weight > 0
    if weights_path is not None and not uses_extractor:
        raise invalid("--weights_path", weights_path, "none with --extractor none or --feature_weight 0")
    given = parse_integers("labels", labels)
    files = picture_files([Path(picture) for picture in pictures])
    check_not_read(path, files)
    if latents_path is not None:
        check_not_read(latents_path, files, "--latents")
    model = load_model(checkpoint, device, imports)
    check_pictures(model)
    chosen = labels_of_pictures(model, labels, given, len(files))
    check_sheet("number of PICTURES", len(files), 2 * len(files), 2, model.image_shape)
    network = None
    if uses_extractor:
        network = make_extractor(extractor, model.image_shape, weights_path, _extractor_of_the_run(checkpoint))
    options: dict[str, Any] = {"steps": steps, "lr": lr, "starts": starts, "seed": seed}
    options |= {"extractor": network, "feature_weight": feature_weight, "ema": ema}
    images, found = [], []
    for start in progress(range(0, len(files), _BLOCK), "Pictures"):
        block = slice(start, start + _BLOCK)
        images.append(read_pictures(files[block], model))
        some = None if chosen is None else chosen[block]
        found.append(invert(model, images[-1], some, **options))
    whole = Inversion(*(torch.cat(parts) for parts in zip(*found, strict=True)))
    if latents_path is not None:
        arrays: dict[str, Any] = {"latents": whole.latents.numpy(), "distances": whole.distances.numpy()}
        if chosen is not None:
            arrays["labels"] = np.array(chosen)
        with replacing(latents_path) as file:
            np.savez(file, **arrays)
    pairs = torch.stack([torch.cat(images), whole.images], dim=1).flatten(0, 1)
    save_png(grid(pairs, columns=2, row_labels=[f"{distance:.4f}" for distance in whole.distances]), path)
    print(printable(f"{len(files)} pictures, mean distance {whole.distances.mean():.4f}: {path}"))


def _extractor_of_the_run(checkpoint: str) -> str | None:
    """Return the extractor that the checkpoint's run was scored with; it suits the data better than the channels do."""
    run = RunFolder.of_checkpoint(checkpoint)
    files = run.all_scores() if run is not None else []
    record = run.evaluation(step_of(files[-1]), None) if run is not None and files else None
    name = record["protocol"].get("extractor") if record is not None else None
    return name if name in BUILT_IN else None
