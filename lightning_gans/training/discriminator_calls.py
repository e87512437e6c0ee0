"""Records of a discriminator's calls while a loss is computed: inputs and outputs.

A loss may call the discriminator in any way, and penalties and other regularizers use the logits of the same calls.
Therefore forward hooks record all calls, including those of a custom loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeGuard

from torch import Tensor, nn

from lightning_gans.errors import SettingError
from lightning_gans.losses import full_precision


class DiscriminatorCall(NamedTuple):
    """One call of a discriminator.

    Attributes:
        images: Its input, before any augmentation.
        logits: Its output, shape ``(N, ...)``.
        classes: Class logits of its auxiliary classifier, ``(N, num_classes)``, or another second output, or None.
        features: The inputs of the layers that are recorded, by layer.
    """

    images: Tensor
    logits: Tensor
    classes: Tensor | None
    features: Mapping[nn.Module, Tensor]


class DiscriminatorCalls(list[DiscriminatorCall]):
    """The calls of a discriminator, in order."""

    def on(self, images: Tensor) -> DiscriminatorCall | None:
        """Return the first call on this tensor object; the same images may be shown again with other labels."""
        return next((call for call in self if call.images is images), None)


@contextmanager
def record_calls(
    discriminator: nn.Module,
    augment: Callable[[Tensor, int], Tensor] | None = None,
    layers: Iterable[nn.Module] = (),
) -> Iterator[DiscriminatorCalls]:
    """Record every call of a discriminator inside the block.

    Args:
        discriminator: Takes the images as its first argument, or by the name ``images``.
        augment: Augments its input, given the images and the index of the call; gradients with respect to the images
            pass through it. Further arguments that are images are augmented in the same way.
        layers: Layers of the discriminator whose inputs are recorded.
    """
    calls = DiscriminatorCalls()
    shown: list[Tensor] = []
    features: dict[nn.Module, Tensor] = {}

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        images = args[0] if args else kwargs["images"]
        shown.append(images)
        if augment is None:
            return None
        augmented = augment(images, len(calls))
        if not args:
            return args, kwargs | {"images": augmented}
        others = (augment(other, len(calls)) if is_images(other) else other for other in args[1:])
        return (augmented, *others), kwargs

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        logits, classes = output if isinstance(output, tuple) else (output, None)
        calls.append(DiscriminatorCall(shown.pop(), logits, classes, dict(features)))
        features.clear()

    def record(layer: nn.Module, args: tuple[Any, ...]) -> None:
        features[layer] = args[0]

    handles = [
        discriminator.register_forward_pre_hook(before, prepend=True, with_kwargs=True),
        discriminator.register_forward_hook(after),
        *(layer.register_forward_pre_hook(record) for layer in set(layers)),
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def is_images(argument: Any) -> TypeGuard[Tensor]:
    """Return whether an argument of a discriminator is a batch of images, ``(N, C, H, W)``."""
    return isinstance(argument, Tensor) and argument.dim() == 4


def find_feature_layer(discriminator: nn.Module, name: str | None) -> nn.Module:
    """Return the layer whose input is used as the features: the named one, or the last linear or convolutional one.

    Raises:
        SettingError: There is no such layer.
    """
    layers: dict[str, nn.Module] = dict(discriminator.named_modules())
    if name is not None:
        # Not the whole network, whose input is the images; not an embedding, whose input is labels; not a
        # parametrization, which computes weights.
        known = {
            place: layer
            for place, layer in layers.items()
            if place and not isinstance(layer, nn.Embedding) and "parametrizations" not in place.split(".")
        }
        if not (isinstance(name, str) and name in known):
            message = f"feature_layer is {name!r}: choose from {', '.join(known)}."
            raise SettingError(message, setting="feature_layer", value=name, allowed=list(known))
        return known[name]
    matrices = [layer for layer in layers.values() if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d))]
    if not matrices:
        message = "feature_layer: the discriminator has no linear or convolutional layer; name a layer."
        raise SettingError(message, setting="feature_layer", allowed=[])
    return matrices[-1]


def logits_of(output: Tensor | tuple[Tensor, Tensor], num_images: int) -> Tensor:
    """Return a discriminator's logits as float32 or better: ``(N,)``, or ``(N, 1, h, w)`` of patches.

    Args:
        output: What the discriminator returned: logits, or logits and the class logits of an auxiliary classifier.
        num_images: Number of images that it was shown.

    Raises:
        SettingError: The logits are not one or more numbers for each image.
    """
    logits = full_precision(output[0] if isinstance(output, tuple) else output)
    if logits.shape[:1] != (num_images,) or (logits.dim() == 2 and logits.shape[1] != 1):
        raise SettingError(
            f"the discriminator returned the shape {list(logits.shape)} for {num_images} images: it must be (N,), "
            "(N, 1), or (N, 1, h, w) for patches.",
            setting="discriminator",
            value=list(logits.shape),
        )
    return logits.flatten() if logits.dim() == 2 else logits
