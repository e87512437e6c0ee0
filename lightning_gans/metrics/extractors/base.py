"""Networks that map images to features and class logits, and their identity in a protocol."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gans.errors import SettingError
from lightning_gans.io.pictures import from_bytes


class Extractor(nn.Module):
    """A frozen network whose result for an image does not depend on the other images of a batch.

    ``forward`` maps uint8 images ``(N, C, H, W)`` to features, float32 ``(N, num_features)``, and class logits,
    float32 ``(N, K)``, or None if it has no classes.

    Attributes:
        name: Its name in a protocol.
        num_features: Length of a feature vector; 0 if it is known only after the first images.
        resize: How images are resized to its input size, in words.
        weights_sha256: Hash of its weights and of whatever else distinguishes it.
        class_names: Names of the classes of its logits, if they are those of a data set.
        block_size: Number of images in every call of the network; it is fixed so that features do not depend on it.
        accelerator_block_size: The same on accelerators, if it differs.
    """

    name: str
    num_features: int
    resize: str
    weights_sha256: str
    class_names: tuple[str, ...] = ()
    block_size: int = 250
    accelerator_block_size: int | None = None

    def identity(self) -> dict[str, str]:
        """Return the fields that identify the extractor; they are equal for equal extractors."""
        return {"extractor": self.name, "weights_sha256": self.weights_sha256, "resize": self.resize}

    def describe(self) -> dict[str, Any]:
        """Return the fields of a protocol, which are complete after the first images."""
        return {**self.identity(), "num_features": self.num_features}

    @torch.no_grad()
    def extract(self, images: Tensor, block_size: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Return features and logits of uint8 images, float32 on the CPU.

        The network only gets full blocks, of ``block_size`` images or of the number in its attributes. The last block
        is padded, so that the bits of an image's features depend only on its position in the blocks.

        Raises:
            SettingError: The images are not bytes; the network returns another shape, or numbers that are not finite.
        """
        if images.dtype != torch.uint8 or images.dim() != 4:
            found = f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
            message = (
                f"the extractor {self.name} takes images as bytes, uint8 (N, C, H, W), but got {found}: convert images "
                "in [-1, 1] with lightning_gans.io.pictures.to_bytes."
            )
            raise SettingError(message, setting="images", value=found, allowed="uint8 (N, C, H, W)")
        self.eval()
        size = block_size or self.block_size
        if images.device.type != "cpu":
            size = block_size or self.accelerator_block_size or size
        features, logits = [torch.empty(0, self.num_features)], []
        with true_float32(images.device):
            for block in torch.split(images, size):
                missing = size - len(block)
                padded = torch.cat([block, block[:1].expand(missing, -1, -1, -1)]) if missing else block
                found, classes = self(padded)
                features.append(self._checked(found, size, "features")[: len(block)])
                if classes is not None:
                    logits.append(self._checked(classes, size, "logits")[: len(block)])
        self.num_features = features[-1].shape[1]
        return torch.cat(features[1:] or features), torch.cat(logits) if logits else None

    def differentiable_features(self, images: Tensor) -> Tensor:
        """Return the features of images in [-1, 1], ``(N, C, H, W)``, which are not rounded to bytes.

        Their gradient reaches the images.

        Raises:
            SettingError: The network is not differentiable.
        """
        features: Tensor = self((images + 1) * 127.5)[0]
        if images.requires_grad and not features.requires_grad:
            raise self.not_differentiable()
        return features

    def not_differentiable(self) -> SettingError:
        """Return the error for a network without a gradient."""
        message = f"the extractor {self.name} is not differentiable: choose another one."
        return SettingError(message, setting="extractor", value=self.name)

    def check(self, image_shape: tuple[int, ...], device: torch.device) -> None:
        """Raise :class:`SettingError` if the network fails on two images of a shape ``(C, H, W)``."""
        try:
            self.to(device).extract(torch.zeros(2, *image_shape, dtype=torch.uint8, device=device), block_size=2)
        except SettingError:
            raise
        except Exception as error:
            message = f"the extractor {self.name} fails on images {list(image_shape)}: {type(error).__name__}: {error}"
            raise SettingError(message, setting="extractor", value=self.name) from error

    def _checked(self, values: Tensor, size: int, what: str) -> Tensor:
        if values.dim() != 2 or len(values) != size or values.shape[1] == 0:
            shape = list(values.shape)
            message = f"the extractor {self.name} returned {what} {shape} for {size} images: it must be (N, {what})."
            raise SettingError(message, setting="extractor", value=shape, allowed="(N, d)")
        values = values.float().cpu()
        if not values.isfinite().all():
            message = f"the extractor {self.name} returned {what} that are not finite."
            raise SettingError(message, setting="extractor", allowed="finite numbers")
        return values


class NoExtractor(Extractor):
    """Extracts nothing, for scores that need no features."""

    name, num_features, resize, weights_sha256 = "none", 0, "none", ""

    def describe(self) -> dict[str, Any]:
        """Return no fields."""
        return {}

    def extract(self, images: Tensor, block_size: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Return features ``(N, 0)``, and no logits."""
        return torch.empty(len(images), 0), None


class ModuleExtractor(Extractor):
    """A custom network as an extractor.

    Args:
        module: Maps float32 images in [-1, 1], ``(N, C, H, W)``, to features ``(N, d)``, or to features and logits: a
            sequence, or a mapping as that of torchvision's ``create_feature_extractor``. The images are rounded to 256
            levels, as in 8-bit images.
    """

    resize = "none"

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.name = f"{type(module).__module__}.{type(module).__qualname__}"
        self.num_features = 0
        self.weights_sha256 = hash_module(module)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the module's features, and its logits if it has any."""
        result = self.module(from_bytes(images))
        parts = [*result.values()] if isinstance(result, Mapping) else result
        parts = [parts] if isinstance(parts, Tensor) else parts
        if not isinstance(parts, (list, tuple)) or not all(isinstance(part, Tensor | None) for part in parts):
            parts = ()
        if len(parts) not in (1, 2):
            found = type(result).__name__
            message = f"the extractor {self.name} returned a {found}: it must return features, or features and logits."
            raise SettingError(message, setting="extractor", value=found, allowed="(N, d)")
        return parts[0], parts[1] if len(parts) == 2 else None


def hash_module(module: nn.Module) -> str:
    """Return the SHA-256 of a module's parameters and buffers (names, shapes and bits), its ``repr`` and its code.

    Settings that appear in none of these should become buffers or part of ``extra_repr``; otherwise the cache may
    return the features of other settings.
    """
    digest = hashlib.sha256(repr(module).encode())
    classes = {cls for part in module.modules() for cls in type(part).__mro__}
    own = [cls for cls in classes if cls.__module__.split(".")[0] not in ("torch", "builtins")]
    for cls in sorted(own, key=lambda cls: f"{cls.__module__}.{cls.__qualname__}"):
        codes: list[Any] = [cls, *filter(inspect.isfunction, vars(cls).values())]
        for code in codes:
            with suppress(OSError, TypeError):  # code from a prompt has no file
                digest.update(inspect.getsource(code).encode())
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def true_float32(device: torch.device | str) -> Iterator[None]:
    """Disable autocast, TF32 and bfloat16 inside the block, and select deterministic algorithms.

    This uses only torch's newer switches: reading the older ones raises an error once both have been set.
    """
    backends: Any = torch.backends  # some switches are not typed
    switches = [backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv]
    precisions = [switch.fp32_precision for switch in switches]
    chosen = backends.cudnn.benchmark, backends.cudnn.deterministic
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        backends.cudnn.benchmark, backends.cudnn.deterministic = False, True
        with torch.autocast(torch.device(device).type, enabled=False):
            yield
    finally:
        for switch, precision in zip(switches, precisions, strict=True):
            switch.fp32_precision = precision
        backends.cudnn.benchmark, backends.cudnn.deterministic = chosen
