"""What a discriminator was shown while a loss was made, and what it answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

from lightning_gans.errors import SettingError
from lightning_gans.losses import full_precision


class Judgement(NamedTuple):
    """One call of a discriminator.

    Attributes:
        images: What it was given, before any augmentation.
        logits: What it answered, shape ``(N,)`` or ``(N, 1)``.
        classes: Class logits of its auxiliary classifier, ``(N, num_classes)``, or None.
        features: What its feature layer was given, or None where that is not watched.
    """

    images: Tensor
    logits: Tensor
    classes: Tensor | None
    features: Tensor | None


class Judgements(list[Judgement]):
    """The calls of a discriminator, in their order."""

    def of(self, images: Tensor) -> Judgement | None:
        """Return the first call on these very images: the same may be judged again with other labels."""
        return next((judgement for judgement in self if judgement.images is images), None)


@contextmanager
def watched(
    discriminator: nn.Module,
    augment: Callable[[Tensor, int], Tensor] | None = None,
    feature_layer: nn.Module | None = None,
) -> Iterator[Judgements]:
    """Note the discriminator's calls inside the block, a loss of the user's own included.

    Args:
        discriminator: Its call takes the images as the first argument, or by the name ``images``.
        augment: Changes what it sees, as a function of the images and of the number of the call; gradients with
            respect to the images go through it.
        feature_layer: A layer within it, whose input is noted.
    """
    judgements = Judgements()
    shown: list[Tensor] = []
    features: list[Tensor] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        images = args[0] if args else kwargs["images"]
        shown.append(images)
        if augment is None:
            return None
        seen = augment(images, len(judgements))
        return ((seen, *args[1:]), kwargs) if args else (args, kwargs | {"images": seen})

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        logits, classes = output if isinstance(output, tuple) else (output, None)
        judgements.append(Judgement(shown.pop(), logits, classes, features.pop() if features else None))

    handles = [
        discriminator.register_forward_pre_hook(before, prepend=True, with_kwargs=True),
        discriminator.register_forward_hook(after),
    ]
    if feature_layer is not None:
        handles.append(feature_layer.register_forward_pre_hook(lambda module, args: features.append(args[0])))
    try:
        yield judgements
    finally:
        for handle in handles:
            handle.remove()


def find_feature_layer(discriminator: nn.Module, name: str | None) -> nn.Module:
    """Return the layer of a discriminator whose input are its features: the last one with a matrix, or the one named.

    Raises:
        SettingError: There is no such layer.
    """
    layers: dict[str, nn.Module] = dict(discriminator.named_modules())
    if name is not None:
        # Not the whole network, whose input are the images, and no embedding, whose are labels, nor what makes weights.
        known = {
            place: layer
            for place, layer in layers.items()
            if place and not isinstance(layer, nn.Embedding) and "parametrizations" not in place.split(".")
        }
        if name not in known:
            raise SettingError(f"feature_layer is {name!r}: choose from {', '.join(known)}.")
        return known[name]
    matrices = [layer for layer in layers.values() if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d))]
    if not matrices:
        raise SettingError("feature_layer: the discriminator has no linear or convolutional layer; name one.")
    return matrices[-1]


def flat(logits: Tensor, num_images: int) -> Tensor:
    """Return logits as ``(N,)``.

    Raises:
        SettingError: They have another shape than ``(N,)`` or ``(N, 1)``.
    """
    if logits.shape not in ((num_images,), (num_images, 1)):
        raise SettingError(
            f"the discriminator gave the shape {list(logits.shape)} for {num_images} images: it must be (N,) or (N, 1)."
        )
    return full_precision(logits.flatten())
