"""``lightning-gans demo``: a page in the browser that shows a model's samples."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image

from lightning_gans.cli.outputs import check_pictures, load_model
from lightning_gans.errors import invalid, missing_extra, printable
from lightning_gans.io.pictures import grid
from lightning_gans.models import GenerativeModule
from lightning_gans.training.sampling import checked_sample_labels, slerp

_SHOWN, _SIZE, _ALL = 16, 512, "all in turn"
_NO_TRUNCATION = 4.0
"""Largest value of the slider, which turns truncation off: only one normal number in 16,000 exceeds it."""


def run(
    checkpoint: str,
    host: str = "127.0.0.1",
    port: int = 7860,
    device: str = "auto",
    ema: bool = True,
    imports: Sequence[str] = (),
) -> None:
    """Serve the page until Ctrl-C."""
    gradio = _gradio()
    if not 0 < port < 65536:
        raise invalid("--port", port, "from 1 to 65535")
    model = load_model(checkpoint, device, imports)
    check_pictures(model)
    print(printable(f"http://{host}:{port}    (Ctrl-C stops)"), flush=True)
    launch(make_page(gradio, model, ema), host, port)


def draw(
    model: GenerativeModule,
    seed: int | None,
    other_seed: int | None,
    share: float,
    truncation: float,
    label: str = _ALL,
    *,
    ema: bool = True,
) -> Image.Image:
    """Return a grid of samples interpolated between two seeds.

    Args:
        model: Generates the samples.
        seed: Seed of the noise; None is 0.
        other_seed: The second seed; None is 0.
        share: Position between the seeds, from 0 (``seed``) to 1 (``other_seed``).
        truncation: Largest absolute value of the noise; 4 or more disables truncation.
        label: The class of all samples, or ``all in turn``; models without classes ignore it.
        ema: Whether to use the moving average of the weights.
    """
    limit = None if truncation >= _NO_TRUNCATION else truncation
    ends = [model.latents(_SHOWN, seed=int(end or 0), truncation=limit) for end in (seed, other_seed)]
    way = torch.cat([slerp(one, other, torch.tensor([share])) for one, other in zip(*ends, strict=True)])
    chosen = None if label == _ALL or model.num_classes == 0 else [int(label)] * _SHOWN
    labels = checked_sample_labels(model, chosen, _SHOWN)
    with torch.no_grad(), model.evaluating():
        on_device = None if labels is None else labels.to(model.device)
        images = model.decode(way.to(model.device).to(model.dtype), on_device, ema=ema)
    picture = grid(images.float())
    factor = max(1, _SIZE // max(picture.size))  # the page does not enlarge it
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def make_page(gradio: Any, model: GenerativeModule, ema: bool = True) -> Any:
    """Return the page; a change of any control draws again."""
    controls = [
        gradio.Number(0, label="Seed", precision=0),
        gradio.Number(1, label="Second seed", precision=0),
        gradio.Slider(0, 1, 0, step=0.05, label="Way to the second seed"),
        gradio.Slider(0.1, _NO_TRUNCATION, _NO_TRUNCATION, step=0.1, label="Truncation (4: none)"),
    ]
    if model.num_classes > 0:
        controls.append(gradio.Dropdown([_ALL, *map(str, range(model.num_classes))], value=_ALL, label="Class"))
    show = partial(draw, model, ema=ema)
    first = show(*(control.value for control in controls))
    picture = gradio.Image(first, show_label=False, format="png", buttons=["download", "fullscreen"])
    shape = " x ".join(map(str, model.image_shape))
    return gradio.Interface(
        show,
        controls,
        picture,
        live=True,
        clear_btn=None,
        title=f"{type(model).__name__}, {shape}",
        flagging_mode="never",
        analytics_enabled=False,
    )


def launch(page: Any, host: str, port: int, **options: Any) -> Any:
    """Serve a page without sharing it; raise :class:`SettingError` for an address that is in use or invalid."""
    options = {"share": False, "quiet": True, "ssr_mode": False, "footer_links": [], **options}
    try:
        return page.launch(server_name=host, server_port=port, **options)
    except OSError:
        raise invalid("--host and --port", f"{host}:{port}", "an address of this machine with a free port") from None


def _gradio() -> Any:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read at the import, which would look for a newer version
    try:
        return importlib.import_module("gradio")
    except ImportError:
        raise missing_extra("gradio", "demo") from None
