"""Translation tasks from single images: the image is the target, and the source is made from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from lightning_gans.datamodules.draws import Draws
from lightning_gans.errors import check_choice, check_counts, check_positive, check_share, invalid

Holes = Literal["center", "random", "strokes"]


class Task:
    """Make pairs ``(source, target)`` from images; a subclass implements :meth:`source`."""

    def __call__(self, images: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return the sources and the targets of a batch."""
        return self.source(images, draws), images

    def source(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the sources, which a model has to translate back into the images.

        Args:
            images: ``(n, C, H, W)`` in [-1, 1].
            draws: Random numbers of the images.
        """
        raise NotImplementedError


class Inpaint(Task):
    """Images with holes, where pixels are 0, and an additional channel that is 1 inside the holes and -1 outside.

    Args:
        holes: ``center`` is a rectangle in the middle; ``random`` is one to four rectangles; ``strokes`` are the paths
            of a brush (after Yu et al. 2019, https://arxiv.org/abs/1806.03589).
        size: Size as a fraction of height and width: of the rectangle in the middle, of the largest possible random
            rectangle, or of the longest possible straight part of a stroke.
    """

    MOST_RECTANGLES, STROKES, PARTS = 4, 3, 4

    def __init__(self, holes: Holes = "center", size: float = 0.5) -> None:
        check_choice("holes", holes, get_args(Holes))
        check_share(size=size)
        self.holes, self.size = holes, size

    def source(self, images: Tensor, draws: Draws) -> Tensor:
        """Return images ``(n, C + 1, H, W)``."""
        height, width = images.shape[2:]
        inside = getattr(self, f"_{self.holes}")(draws, height, width).to(images.device)[:, None]
        return torch.cat([images.masked_fill(inside, 0), inside.to(images.dtype) * 2 - 1], 1)

    def _center(self, draws: Draws, height: int, width: int) -> Tensor:
        inside = torch.zeros(len(draws.rows), height, width, dtype=torch.bool)
        high, wide = round(self.size * height), round(self.size * width)
        top, left = (height - high) // 2, (width - wide) // 2
        inside[:, top : top + high, left : left + wide] = True
        return inside

    def _random(self, draws: Draws, height: int, width: int) -> Tensor:
        inside = torch.zeros(len(draws.rows), height, width, dtype=torch.bool)
        uniforms = draws.uniform(1 + 4 * self.MOST_RECTANGLES).tolist()
        for mask, (number, *numbers) in zip(inside, uniforms, strict=True):
            for place in range(1 + int(number * self.MOST_RECTANGLES)):
                tall, broad, down, right = numbers[4 * place : 4 * place + 4]
                high, wide = max(1, round(self.size * height * tall)), max(1, round(self.size * width * broad))
                top, left = int(down * (height - high + 1)), int(right * (width - wide + 1))
                mask[top : top + high, left : left + wide] = True
        return inside

    def _strokes(self, draws: Draws, height: int, width: int) -> Tensor:
        uniforms = draws.uniform(self.STROKES * (3 + 2 * self.PARTS)).view(len(draws.rows), self.STROKES, -1)
        size = torch.tensor([height, width], dtype=torch.float32)
        pixels = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), -1)
        inside = torch.zeros(len(draws.rows), height, width, dtype=torch.bool)
        for stroke in uniforms.unbind(1):
            start, brush = stroke[:, :2] * size, (0.02 + 0.05 * stroke[:, 2]) * size.min()
            for part in stroke[:, 3:].view(len(stroke), -1, 2).unbind(1):
                angle, length = 2 * math.pi * part[:, :1], self.size * part[:, 1:]
                end = start + torch.cat([angle.sin(), angle.cos()], 1) * length * size
                inside |= _distance(pixels, start, end) <= brush[:, None, None]
                start = end
        return inside


def _distance(pixels: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Return the distance of pixels ``(H, W, 2)`` to line segments between points ``(n, 2)``, ``(n, H, W)``."""
    along = (end - start)[:, None, None]
    away = pixels - start[:, None, None]
    share = (away * along).sum(-1, keepdim=True) / along.square().sum(-1, keepdim=True).clamp_min(1e-12)
    distance: Tensor = (away - share.clamp(0, 1) * along).norm(dim=-1)
    return distance


class Colorize(Task):
    """The brightness of color images, as one channel."""

    def source(self, images: Tensor, draws: Draws) -> Tensor:
        """Return images ``(n, 1, H, W)``."""
        if images.shape[1] != 3:
            raise invalid("task", "colorize", "another task, as these images have no colors")
        return _gray(images)


class Denoise(Task):
    """Images with Gaussian noise, limited to [-1, 1].

    Args:
        sigma: Standard deviation of the noise.
    """

    def __init__(self, sigma: float = 0.5) -> None:
        check_positive(sigma=sigma)
        self.sigma = sigma

    def source(self, images: Tensor, draws: Draws) -> Tensor:
        """Return images ``(n, C, H, W)``."""
        noise = draws.normal(images[0].numel()).view(images.shape).to(images)
        return (images + self.sigma * noise).clamp(-1, 1)


class Deblur(Task):
    """Images blurred with a Gaussian.

    Args:
        sigma: Standard deviation of the Gaussian, in pixels.
    """

    def __init__(self, sigma: float = 2.0) -> None:
        check_positive(sigma=sigma)
        self.sigma = sigma

    def source(self, images: Tensor, draws: Draws) -> Tensor:
        """Return images ``(n, C, H, W)``."""
        radius = min(math.ceil(3 * self.sigma), *(side - 1 for side in images.shape[2:]))
        blurred: Tensor = transforms.gaussian_blur(images, [2 * radius + 1] * 2, [self.sigma] * 2)
        return blurred


class Edges(Task):
    """The gradient norm of the brightness by Sobel's filter, as one channel: -1 if flat, 1 from black to white."""

    def source(self, images: Tensor, draws: Draws) -> Tensor:
        """Return images ``(n, 1, H, W)``."""
        if images.shape[1] not in (1, 3):
            raise invalid("task", "edges", "another task, as the images are neither gray nor in color")
        gray = F.pad(images if images.shape[1] == 1 else _gray(images), (1, 1, 1, 1), mode="replicate")
        down = torch.tensor([[-1.0, -2, -1], [0, 0, 0], [1, 2, 1]]).to(images) / 8
        steepness: Tensor = F.conv2d(gray, torch.stack([down, down.T])[:, None]).norm(dim=1, keepdim=True)
        return steepness.clamp(max=1) * 2 - 1


class SuperResolution(Task):
    """Images that are made smaller, bicubically and antialiased.

    Args:
        scale: Factor by which height and width shrink.
    """

    def __init__(self, scale: int = 4) -> None:
        check_counts(scale=scale)
        self.scale = scale

    def source(self, images: Tensor, draws: Draws) -> Tensor:
        """Return images ``(n, C, H / scale, W / scale)``."""
        height, width = images.shape[2:]
        if height % self.scale or width % self.scale:
            allowed = f"a number that divides height and width, {height} and {width}"
            raise invalid("scale", self.scale, allowed)
        size = height // self.scale, width // self.scale
        return F.interpolate(images, size, mode="bicubic", antialias=True).clamp(-1, 1)


class Invert(Task):
    """Negatives: black becomes white."""

    def source(self, images: Tensor, draws: Draws) -> Tensor:
        """Return images ``(n, C, H, W)``."""
        return -images


def _gray(images: Tensor) -> Tensor:
    brightness: Tensor = transforms.rgb_to_grayscale(images)
    return brightness


TASKS: dict[str, Callable[[], Task]] = {
    "inpaint": Inpaint,
    "inpaint_random": lambda: Inpaint("random"),
    "inpaint_strokes": lambda: Inpaint("strokes"),
    "colorize": Colorize,
    "denoise": Denoise,
    "deblur": Deblur,
    "edges": Edges,
    "super_resolution_x2": lambda: SuperResolution(2),
    "super_resolution_x4": SuperResolution,
    "invert": Invert,
}
"""The tasks by name, with their default strength."""


def find_task(task: str | Task | None) -> Task | None:
    """Return a task by its name; raise :class:`SettingError` for an unknown one."""
    if task is None or isinstance(task, Task):
        return task
    check_choice("task", task, TASKS)
    return TASKS[task]()
