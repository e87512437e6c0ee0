"""Find the latents whose images are closest to given images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_gans.errors import SettingError, check_counts, check_not_negative, check_positive, invalid
from lightning_gans.metrics.extractors import Extractor, make_extractor
from lightning_gans.models import GenerativeModule
from lightning_gans.training import batches
from lightning_gans.training.sampling import SAMPLE_BLOCK, check_latents, checked_sample_labels

_MOST_STARTS = 1000


class Inversion(NamedTuple):
    """What :func:`invert` found, float32 on the CPU.

    Attributes:
        latents: The latents of the closest images, ``(N, latent_dim)``.
        images: These images, ``(N, C, H, W)`` in [-1, 1].
        distances: Their distances from the given images, ``(N,)``.
    """

    latents: Tensor
    images: Tensor
    distances: Tensor


def invert(
    model: GenerativeModule,
    images: Tensor,
    labels: Tensor | Sequence[int] | None = None,
    *,
    steps: int = 200,
    lr: float = 0.1,
    starts: int = 4,
    seed: int = 0,
    extractor: str | nn.Module | None = "auto",
    feature_weight: float = 0.1,
    ema: bool = True,
) -> Inversion:
    r"""Find latents by optimization, for any model with latents (Zhu et al. 2016, https://arxiv.org/abs/1609.03552).

    Adam minimizes the distance :math:`\operatorname{mean}(x - y)^2 + w \|f(x) - f(y)\|^2` of an image :math:`y` and the
    model's image :math:`x`, where :math:`f` are an extractor's features, scaled to length 1. Each image is optimized
    from several starts at once, and the closest result of all steps and starts is kept. The starts are the first
    samples of the seed; if the model has an encoder, the first start is the mean that it returns. The result for an
    image does not depend on the other images.

    Args:
        model: Any model whose ``decode`` is differentiable.
        images: Values in [-1, 1], shape ``(N, C, H, W)``.
        labels: One for each image, in a conditional model.
        steps: Number of steps; 0 returns the closest of the starts.
        lr: Adam's learning rate, which falls to 0 along a cosine.
        starts: Number of starts for each image, at most 1000.
        seed: Seed of the starts.
        extractor: The network f: a name as in :func:`lightning_gans.metrics.make_extractor`, an extractor or another
            network; None compares pixels only.
        feature_weight: The weight w.
        ema: Whether to use the moving averages of the weights, where the model has them.

    Raises:
        SettingError: The images or the labels do not match the model, a setting is out of range, the model has no
            gradient with respect to its latents, or the extractor is unknown, does not accept such images or is not
            differentiable.
        DataError: The images are not in [-1, 1], or the extractor's weights are missing.

    Example:
        >>> from lightning_gans import GAN
        >>> model = GAN((1, 8, 8), latent_dim=4)
        >>> found = invert(model, model.sample(2, seed=5), steps=10, extractor=None)
        >>> found.latents.shape, found.distances.shape
        (torch.Size([2, 4]), torch.Size([2]))
    """
    check_latents(model)
    check_inversion(steps=steps, lr=lr, starts=starts, feature_weight=feature_weight)
    batches.check_images(images, model.image_shape)
    if len(images) > 0:
        batches.check_range(images)
    if labels is None and model.num_classes > 0:
        raise SettingError("the model is conditional: give one label for each image.", setting="labels")
    chosen = checked_sample_labels(model, labels, len(images))
    network = None
    if extractor is not None and feature_weight > 0:
        network = make_extractor(extractor, model.image_shape).to(model.device).eval()
    found = [Inversion(torch.empty(0, model.latent_dim), torch.empty(0, *model.image_shape), torch.empty(0))]
    at_once = max(1, SAMPLE_BLOCK // starts)
    with model.evaluating(), torch.enable_grad(), _differentiable_recurrence(model):
        for start in range(0, len(images), at_once):
            block = slice(start, start + at_once)
            targets = images[block].to(model.device).to(model.dtype)
            some = None if chosen is None else chosen[block].to(model.device)
            points = _starts(model, targets, some, starts, seed, ema)  # (n, starts, latent_dim)
            distance = _Distance(targets.repeat_interleave(starts, 0), network, feature_weight)
            repeated = None if some is None else some.repeat_interleave(starts, 0)
            decode = partial(model.decode, labels=repeated, ema=ema)
            closest = _minimize(decode, distance, points.flatten(0, 1).to(targets), steps, lr)
            best = closest.distances.view(-1, starts).nan_to_num(torch.inf).argmin(1)
            best += starts * torch.arange(len(targets))
            found.append(Inversion(*(part[best] for part in closest)))
    return Inversion(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def check_inversion(*, steps: int, lr: float, starts: int, feature_weight: float) -> None:
    """Raise :class:`SettingError` for the first setting of :func:`invert` that is out of range."""
    check_counts(starts=starts)
    if starts > _MOST_STARTS:  # those of an image are optimized together
        raise invalid("starts", starts, f"at most {_MOST_STARTS}")
    check_counts(least=0, steps=steps)
    check_positive(lr=lr)
    check_not_negative(feature_weight=feature_weight)


class _Distance:
    """The distance of images from targets, row by row."""

    def __init__(self, targets: Tensor, network: Extractor | None, weight: float) -> None:
        self.targets, self.network, self.weight = targets, network, weight
        self.features = self._features(targets).detach()

    def __call__(self, images: Tensor) -> Tensor:
        """Return the distances, ``(N,)``."""
        pixels = (images.float() - self.targets.float()).square().flatten(1).mean(1)
        return pixels + self.weight * (self._features(images) - self.features).square().sum(1)

    def _features(self, images: Tensor) -> Tensor:
        """Return features of length 1, or nothing, ``(N, 0)``, without a network."""
        if self.network is None:
            return images.new_empty(len(images), 0)
        return F.normalize(self.network.differentiable_features(images.float()))


def _starts(model: Any, targets: Tensor, labels: Tensor | None, num: int, seed: int, ema: bool) -> Tensor:
    """Return the starts of each image, ``(N, num, latent_dim)``."""
    points: Tensor = model.latents(num, seed=seed, ema=ema).to(model.device).repeat(len(targets), 1, 1)
    if hasattr(model, "encode"):
        with torch.no_grad():
            points[:, 0] = model.encode(targets, labels, ema=ema)[0]
    return points


def _minimize(
    decode: Callable[[Tensor], Tensor], distance: _Distance, points: Tensor, steps: int, lr: float
) -> Inversion:
    """Move each latent towards a smaller distance, and return the closest that it came."""
    latents = points.clone().requires_grad_()
    optimizer = torch.optim.Adam([latents], lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    best: list[Tensor] = []
    for step in range(steps + 1):
        images = decode(latents)
        distances = distance(images)
        if not distances.requires_grad:
            message = "the model's images have no gradient with respect to its latents, as with discrete codes."
            raise SettingError(message, setting="model", allowed="a model whose decode is differentiable")
        now = [part.detach().clone() for part in (latents, images, distances)]
        if best:
            closer = (distances < best[2]) | best[2].isnan()
            for known, new in zip(best, now, strict=True):
                known[closer] = new[closer]
        best = best or now
        if step < steps:
            (latents.grad,) = torch.autograd.grad(distances.sum(), latents)
            optimizer.step()
            schedule.step()
    return Inversion(*(part.float().cpu() for part in best))


def _differentiable_recurrence(model: nn.Module) -> AbstractContextManager[Any]:
    """Disable cuDNN for a recurrent network: in evaluation mode, its kernels have no gradient."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    return torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext()
