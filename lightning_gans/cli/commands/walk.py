"""``lightning-gans walk``: an animation, or a sheet of pictures, along a way between seeds."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lightning_gans.cli.outputs import check_labels, check_pictures, load_model, parse_integers
from lightning_gans.errors import SettingError, check_counts, check_positive, printable
from lightning_gans.io.animations import SUFFIXES, check_animation_file, check_animation_length, save_animation
from lightning_gans.io.files import check_suffix
from lightning_gans.io.pictures import check_sheet, grid, save_png
from lightning_gans.latents import walk
from lightning_gans.latents.walks import Easing

_SEEDS = 4


def run(
    checkpoint: str,
    output: str,
    seeds: str | None = None,
    num_seeds: int | None = None,
    labels: str | None = None,
    frames: int = 25,
    fps: float = 25,
    loop: bool = False,
    easing: Easing = "smooth",
    truncation: float | None = None,
    ema: bool = True,
    device: str = "auto",
    imports: Sequence[str] = (),
) -> None:
    """Write the pictures on the way from seed to seed."""
    path = check_suffix(output, (*SUFFIXES, ".png"))
    check_positive(fps=fps)
    if path.suffix != ".png":
        check_animation_file(path, fps)
    check_counts(frames=frames)
    if truncation is not None:
        check_positive(truncation=truncation)
    seed_list, label_list = parse_integers("seeds", seeds), parse_integers("labels", labels)
    if seed_list and num_seeds is not None:
        raise SettingError("--seeds replaces --num_seeds: remove one of them.", setting="--num_seeds", value=num_seeds)
    if num_seeds is None:
        num_seeds = len(label_list) if len(label_list) > 1 else _SEEDS
    stops = len(seed_list) or num_seeds
    if stops < 2 or len(label_list) not in (0, 1, stops):
        message = f"got {stops} seeds and {len(label_list)} labels: give at least two seeds, and one label or one each."
        raise SettingError(message, setting="--seeds", value=stops)
    model = load_model(checkpoint, device, imports)
    check_pictures(model)
    check_labels(model, labels, label_list)
    num = stops * frames if loop else (stops - 1) * frames + 1
    if path.suffix == ".png":
        check_sheet("--frames", frames, num, frames, model.image_shape)
    else:
        check_animation_length("--frames", frames, num, model.image_shape)
    seed_list = seed_list or torch.randint(2**31, (stops,)).tolist()
    chosen = (label_list if len(label_list) == stops else label_list * stops) or None
    images = walk(model, seed_list, chosen, frames=frames, loop=loop, easing=easing, truncation=truncation, ema=ema)
    if path.suffix == ".png":
        save_png(grid(images, columns=frames), path)
    else:
        save_animation(images, path, fps)
    print(printable(f"{num} pictures, seeds {','.join(map(str, seed_list))}: {path}"))
