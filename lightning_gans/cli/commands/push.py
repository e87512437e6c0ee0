"""``lightning-gans push``: a model as a folder that anyone can load, or on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import yaml
from torch import Tensor

from lightning_gans.cli.arguments import PROGRAM
from lightning_gans.cli.outputs import load_model
from lightning_gans.cli.run_folder import RunFolder
from lightning_gans.errors import DataError, invalid, printable
from lightning_gans.io.files import check_free_folder, replacing_folder
from lightning_gans.io.hub import PREFIX, hub, upload, write_pushed
from lightning_gans.io.pictures import grid, save_png
from lightning_gans.metrics.protocol import made, table
from lightning_gans.models import GenerativeModule, TranslationModule
from lightning_gans.training.checkpoint_format import KEY, describe

_SIDE, _WIDEST = 8, 16
"""Rows of the picture, which is square, and the most columns if there is one for each class."""


def run(checkpoint: str, to: str, imports: Sequence[str] = ()) -> None:
    """Write weights, cards and a picture, or upload them."""
    if to.startswith(PREFIX):
        hub()
        if to.count("/") != 1 or "@" in to:
            raise invalid("--to", to, "a folder, or hf:USER/NAME")
    else:
        check_free_folder(to)
    model = load_model(checkpoint, "cpu", imports)
    weights = model.state_dict()
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            message = f"{checkpoint} cannot be pushed: its state {name!r} is not a tensor."
            raise DataError(message, setting=checkpoint, value=name)
    found = RunFolder(Path(checkpoint).absolute().parent.parent)
    scores = found.evaluation(model.weights_step, True if model.ema_half_life else None)
    data = found.settings().get("data") if found.config.is_file() else None
    card: dict[str, Any] = {"format": 1, "global_step": model.weights_step}
    describe(model, card)
    card |= {"data": data.get("class_path") if isinstance(data, dict) else data, "evaluation": scores, **made()}
    has_picture = model.makes_pictures and not isinstance(model, TranslationModule)
    with _folder(to) as folder:
        write_pushed(folder, card, weights)
        if has_picture:
            by_class = 0 < model.num_classes <= _WIDEST and model.attributes is None
            columns = model.num_classes if by_class else _SIDE
            save_png(grid(model.sample(_SIDE * columns, seed=0), columns=columns), folder / "samples.png")
        use = _translations(model) if isinstance(model, TranslationModule) else _samples(model, has_picture)
        (folder / "README.md").write_text(_readme(model, use, card, to, imports), encoding="utf-8")
    print(printable(f'{to}: load it with lightning_gans.load("{to}")'))


@contextmanager
def _folder(to: str) -> Iterator[Path]:
    """Yield a folder to fill, which is then renamed or uploaded as a whole."""
    if to.startswith(PREFIX):
        with TemporaryDirectory() as temporary:
            yield Path(temporary)
            upload(Path(temporary), to)
    else:
        with replacing_folder(to) as folder:
            yield folder


class _Use(NamedTuple):
    """What a model card says about the images of a model, and how to get them.

    Attributes:
        tag: The Hub's name of the task.
        about: Sentences about the images.
        command: The command that makes them.
        options: Its arguments after the model.
        code: The line of Python that makes them.
    """

    tag: str
    about: str
    command: str
    options: str
    code: str


def _samples(model: GenerativeModule, has_picture: bool) -> _Use:
    classes = f", {model.num_classes} classes" if model.num_classes else ""
    if model.attributes is not None:
        classes = f", with the attributes {', '.join(model.attributes.names)}"
    return _Use(
        "unconditional-image-generation",
        f"Samples are {_size(model.image_shape)}{classes}.\n"
        + ("\n![Samples of seed 0](samples.png)\n" if has_picture else ""),
        "sample",
        f"--num_samples 64 --output samples.{'png' if has_picture else 'npz'}",
        f"images = model.sample(64, seed=0)  # float32 {[64, *model.image_shape]} in [-1, 1]",
    )


def _translations(model: TranslationModule) -> _Use:
    return _Use(
        "image-to-image",
        f"It translates images of {_size(model.source_shape)} into {_size(model.image_shape)}, or of another size.\n",
        "translate",
        "FOLDER --output translations",
        f"images = model.translate(sources)  # float32 (N, {', '.join(map(str, model.source_shape))}) in [-1, 1]",
    )


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _readme(model: GenerativeModule, use: _Use, card: dict[str, Any], to: str, imports: Sequence[str]) -> str:
    """Return the model card for people."""
    about, name = card[KEY], type(model).__name__
    front = {
        "library_name": "lightning_gans",
        "pipeline_tag": use.tag,
        "tags": ["lightning_gans", "pytorch-lightning", name.lower()],
    }
    trained = f" trained on {card['data']}" if card["data"] else ""
    amount = f"{card['global_step']:,} updates, {about['images_seen']:,} images"
    arguments = f", imports={[*imports]!r}" if imports else ""
    options = "".join(f" --import {module}" for module in imports)
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n# {name}\n",
        f"A `{about['class']}`{trained}: {amount}.\n{use.about}",
        f"""## How to load it

```bash
pip install 'lightning_gans[hub]'
{PROGRAM} {use.command} {to} {use.options}{options}
```

```python
import lightning_gans

model = lightning_gans.load("{to}"{arguments})
{use.code}
```

`model.safetensors` holds all networks, and `config.json` the class, its arguments and the versions. Images are made
with the moving average of the weights, if the model has one; `{use.command}(…, ema=False)` uses the weights themselves.
""",
    ]
    if card["evaluation"]:
        parts.append(f"## Scores\n\n```\n{table(card['evaluation'])}\n```\n")
    return "\n".join(parts)
