"""``lightning-gans traverse``: pictures that change along one latent, or one direction, at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from lightning_gans.cli.outputs import check_pictures, load_model
from lightning_gans.errors import check_counts, check_positive, printable
from lightning_gans.io.files import check_suffix
from lightning_gans.io.pictures import check_sheet, grid, save_png
from lightning_gans.latents import latent_divergences, sefa_directions, traverse
from lightning_gans.models import GenerativeModule


def run(
    checkpoint: str,
    output: str,
    directions: Literal["latents", "sefa"] = "latents",
    num: int = 8,
    steps: int = 7,
    span: float = 3.0,
    seed: int = 0,
    label: int | None = None,
    ema: bool = True,
    device: str = "auto",
    imports: Sequence[str] = (),
) -> None:
    """Write a row of pictures for each latent or direction."""
    path = check_suffix(output)
    check_counts(num=num)
    check_positive(span=span)
    check_counts(least=2, **{"--steps": steps})
    model = load_model(checkpoint, device, imports)
    check_pictures(model)
    num = min(num, model.latent_dim)
    check_sheet("--steps", steps, num * steps, steps, model.image_shape)
    along: Sequence[int] | Tensor
    if directions == "sefa":
        along, names = sefa_directions(model, num, ema=ema), [str(number) for number in range(1, num + 1)]
    else:
        along, names = _latents(model, num, ema)
    images = traverse(model, along, seed, label, span=span, steps=steps, ema=ema)
    save_png(grid(images.flatten(0, 1), columns=steps, row_labels=names), path)
    what = "directions" if directions == "sefa" else "latents"
    print(printable(f"{num} {what}, up to ±{span:g}: {path}"))


def _latents(model: GenerativeModule, num: int, ema: bool) -> tuple[list[int], list[str]]:
    """Return latents and the names of their rows; a VAE's by their divergences, the largest first."""
    if not hasattr(model, "encode"):
        return list(range(num)), [str(index) for index in range(num)]
    divergences = latent_divergences(model, ema=ema)
    order = divergences.argsort(descending=True, stable=True)[:num].tolist()
    return order, [f"{index}: {divergences[index]:.2f} nats" for index in order]
