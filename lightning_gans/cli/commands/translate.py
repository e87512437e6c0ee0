"""``lightning-gans translate``: pictures through a model that translates images."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_gans.cli.outputs import (
    as_images,
    check_not_read,
    check_output,
    load_model,
    open_output,
    picture_files,
    progress,
    translation_options,
)
from lightning_gans.errors import DataError, SettingError, invalid, printable
from lightning_gans.io.arrays import (
    ARRAYS,
    TIFF,
    Scale,
    channel_axis,
    check_values,
    suffix_for,
    with_channels_first,
    write_values,
)
from lightning_gans.io.files import reading, replacing, replacing_folder
from lightning_gans.io.pictures import opened_picture, to_array
from lightning_gans.metrics.image_sets import ARCHIVES, read_archive
from lightning_gans.models.translation import in_tiles

_BLOCK = 50


class Way(NamedTuple):
    """A translation, and what goes in and comes out.

    Attributes:
        call: Translates images in [-1, 1].
        channels: Channels of the sources.
        given: Values of the sources in training.
        made: Values of the targets in training.
        inpaint: Whether the last channel of the sources is a mask of holes.
    """

    call: Callable[[Tensor], Tensor]
    channels: int
    given: Scale
    made: Scale
    inpaint: bool

    def translated(self, values: np.ndarray, name: str, opacity: bool) -> Tensor:
        """Translate the values of a file ``(N, C, H, W)``; the last channel may be the opacity of holes."""
        images = self._images(values, name, opacity)
        try:
            return self.call(images)
        except SettingError as error:  # for example the size
            fields = {"setting": error.setting, "value": error.value, "allowed": error.allowed}
            raise SettingError(f"{name}: {error}", **fields) from error

    def _images(self, values: np.ndarray, name: str, opacity: bool) -> Tensor:
        """Return the values of a file in [-1, 1]."""
        images = as_images(values, self.given, name)
        if not self.inpaint:
            return images
        inside = images[:, -1:] < 0 if opacity else images[:, -1:] > 0
        if not inside.any():
            hint = (
                "erase the pixels to fill, so that they are transparent"
                if opacity
                else "the last channel is their mask"
            )
            raise DataError(f"{name} has no holes: {hint}.", setting=name, allowed="holes")
        return torch.cat([images[:, :-1].masked_fill(inside, 0), inside * 2.0 - 1], 1)

    def scale(self, dtype: Any) -> Scale:
        """Return the values of outputs: those of the training if a source's type is, or else by that type."""
        return self.made if np.dtype(dtype).name == self.given.dtype else Scale.of_type(dtype)


def run(
    checkpoint: str,
    pictures: str,
    output: str,
    to: str | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    ema: bool = True,
    device: str = "auto",
    imports: Sequence[str] = (),
) -> None:
    """Translate pictures, each at its own size, and write them under the same names."""
    path, source = check_output(output, (".png", *TIFF, *ARRAYS)), Path(pictures)
    check_not_read(path, [source])
    if overlap is not None and tile is None:
        raise invalid("--overlap", overlap, "omitted without --tile")
    model: Any = load_model(checkpoint, device, imports)
    if not hasattr(model, "translate"):
        raise SettingError(
            f"a {type(model).__name__} does not translate images: use the checkpoint of a Pix2Pix, SRGAN or CycleGAN.",
            setting="checkpoint",
        )
    options: dict[str, Any] = {"ema": ema, **translation_options(model, to)}

    def translated(images: Tensor) -> Tensor:
        made: Tensor = model.translate(images, **options).cpu()
        return made

    shapes, scales = (model.source_shape, model.image_shape), (model.source_scale, model.image_scale)
    if to == "source":
        shapes, scales = shapes[::-1], scales[::-1]
    call: Callable[[Tensor], Tensor] = translated
    if tile is not None:
        call = partial(in_tiles, translated, tile=tile, overlap=tile // 4 if overlap is None else overlap)
    way = Way(call, shapes[0][0], *scales, getattr(model, "inpaint", False))
    if source.suffix in ARCHIVES and (values := _batch(source, way.channels)) is not None:
        num = _translate_array(source, values, path, way)
    else:
        num = _translate_files(source, path, way)
    print(printable(f"{num} pictures: {path}"))


def _batch(source: Path, channels: int) -> np.ndarray | None:
    """Return the images of an archive, ``(N, C, H, W)``; None if it has a single image."""
    with reading(source, "an array of images"):
        values = np.asarray(read_archive(source)[0])
        check_values(values)
        if values.ndim == 2 or (values.ndim == 3 and channels > 1):
            return None
        return with_channels_first(values, channel_axis(values.shape[1:], channels))


def _translate_array(source: Path, values: np.ndarray, output: Path, way: Way) -> int:
    """Translate the images of an archive; write an archive, a grid or a folder of numbered pictures."""
    if output.suffix not in ("", ".png", ".npz"):
        raise invalid("--output", str(output), "a folder or a name that ends in .png or .npz, as there are many images")

    def block(start: int) -> Tensor:
        return way.translated(values[start : start + _BLOCK], str(source), opacity=False)

    first = block(0)
    with open_output(output, len(values), tuple(first.shape[1:]), scale=way.scale(values.dtype)) as write:
        for start in progress(range(0, len(values), _BLOCK), "Translations"):
            write(block(start) if start else first)
    return len(values)


def _translate_files(source: Path, output: Path, way: Way) -> int:
    """Translate pictures; write files of the same names and kinds into a folder, or a single one to a file."""
    files = picture_files([source], deep=True)
    if output.suffix and len(files) > 1:
        raise invalid("--output", str(output), f"a folder, as there are {len(files)} pictures")
    folder = source if source.is_dir() else source.parent
    names = [os.path.splitext(file.relative_to(folder))[0] for file in files]
    if len(set(names)) < len(names):
        same = next(name for name in names if names.count(name) > 1)
        message = f"{folder} has several pictures that differ only in their extensions, such as {same}: rename them."
        raise DataError(message, setting=same)

    def translated(file: Path) -> tuple[np.ndarray, int | None]:
        with opened_picture(file, channels=way.channels, own_values=True) as opened:
            values = to_array(opened, (way.channels, opened.height, opened.width))
            axis: int | None = getattr(opened, "axis", None)
        made = way.translated(values[None], str(file), opacity=file.suffix.lower() not in ARRAYS)
        return way.scale(values.dtype).restore(made)[0], axis

    if output.suffix:
        values, axis = translated(files[0])
        try:
            with replacing(output) as file:
                write_values(values, file, output.suffix, axis)
        except ValueError as error:
            raise invalid(
                "--output", str(output), f"a folder or a name that ends in {suffix_for(values)}: {error}"
            ) from error
        return 1
    with replacing_folder(output) as made:
        for place in progress(range(len(files)), "Translations"):
            values, axis = translated(files[place])
            suffix = suffix_for(values, files[place].suffix.lower())
            target = made / f"{names[place]}{suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "wb") as file:
                write_values(values, file, suffix, axis)
    return len(files)
