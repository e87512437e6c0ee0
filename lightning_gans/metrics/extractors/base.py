"""Networks that turn images into features and class logits, and what has to be said of one beside a score."""

from __future__ import annotations

import hashlib
import inspect
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gans.errors import SettingError
from lightning_gans.metrics.arithmetic import true_float32


class Extractor(nn.Module):
    """A frozen network that is the same for every image it is shown, however many at once.

    ``forward`` maps uint8 images ``(N, C, H, W)`` to features, float32 ``(N, num_features)``, and class
    logits, float32 ``(N, K)``, or None where it has no classes.

    Attributes:
        name: What a protocol calls it.
        num_features: Length of a feature vector; 0 where it shows only with the first images.
        resize: How images reach its input size, in words.
        weights_sha256: Hash of its weights, and of what else tells it from others.
        class_names: Names of the classes of its logits, where they are those of a data set.
        block_size: Images that are shown at once, always, so that their features never depend on it.
        accelerator_block_size: The same anywhere but on a CPU, where it differs.
    """

    name: str
    num_features: int
    resize: str
    weights_sha256: str
    class_names: tuple[str, ...] = ()
    block_size: int = 250
    accelerator_block_size: int | None = None

    def identity(self) -> dict[str, str]:
        """Return what makes two extractors the same."""
        return {"extractor": self.name, "weights_sha256": self.weights_sha256, "resize": self.resize}

    def describe(self) -> dict[str, Any]:
        """Return what a protocol says of it, once it has seen images."""
        return {**self.identity(), "num_features": self.num_features}

    @torch.no_grad()
    def extract(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return features and logits of uint8 images, float32 on the CPU, shown in whole blocks.

        A block that is not full is filled up, so that each image's bits depend on its place in the blocks
        alone.

        Raises:
            SettingError: The network gives features of another shape, or numbers that are not finite.
        """
        self.eval()
        size = self.block_size if images.device.type == "cpu" else self.accelerator_block_size or self.block_size
        features, logits = [torch.empty(0, self.num_features)], []
        with true_float32(images.device):
            for block in torch.split(images, size):
                missing = size - len(block)
                shown = torch.cat([block, block[:1].expand(missing, -1, -1, -1)]) if missing else block
                found, classes = self(shown)
                features.append(self._checked(found, size, "features")[: len(block)])
                if classes is not None:
                    logits.append(self._checked(classes, size, "logits")[: len(block)])
        self.num_features = features[-1].shape[1]
        return torch.cat(features[1:] or features), torch.cat(logits) if logits else None

    def _checked(self, values: Tensor, size: int, what: str) -> Tensor:
        if values.dim() != 2 or len(values) != size or values.shape[1] == 0:
            raise SettingError(
                f"the extractor {self.name} gave {what} of the shape {list(values.shape)} for {size} "
                f"images: it must be (N, number of {what})."
            )
        values = values.float().cpu()
        if not values.isfinite().all():
            raise SettingError(f"the extractor {self.name} gave {what} that are not finite.")
        return values


class ModuleExtractor(Extractor):
    """A network of the user's own, as an extractor.

    Args:
        module: Maps float32 images in [-1, 1], ``(N, C, H, W)``, to features ``(N, d)``, or to a pair of
            features and logits. They are shown as 8-bit images would be: rounded to 256 levels.
    """

    resize = "none"

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.name = f"{type(module).__module__}.{type(module).__qualname__}"
        self.num_features = 0
        self.weights_sha256 = hash_module(module)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what the network makes of the images."""
        result = self.module(images.float() / 127.5 - 1)
        return result if isinstance(result, tuple) else (result, None)


def hash_module(module: nn.Module) -> str:
    """Return the SHA-256 of a module: parameters and buffers, their names, shapes and bits; its printed form; its code.

    Settings that show in none of these should be buffers, or the module's ``extra_repr``: else features that were
    kept for other settings are taken for its own.
    """
    digest = hashlib.sha256(repr(module).encode())
    classes = {cls for part in module.modules() for cls in type(part).__mro__}
    own = [cls for cls in classes if cls.__module__.split(".")[0] not in ("torch", "builtins")]
    for cls in sorted(own, key=lambda cls: f"{cls.__module__}.{cls.__qualname__}"):
        codes: list[Any] = [cls, *filter(inspect.isfunction, vars(cls).values())]
        for code in codes:
            with suppress(OSError, TypeError):  # what was typed in at a prompt has no file
                digest.update(inspect.getsource(code).encode())
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
