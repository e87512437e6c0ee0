"""Networks that map images to features and class logits, and their identity in a protocol."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
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
        block_size: Number of images of every call, so that features do not depend on it.
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
        """Return what two equal extractors have in common."""
        return {"extractor": self.name, "weights_sha256": self.weights_sha256, "resize": self.resize}

    def describe(self) -> dict[str, Any]:
        """Return the fields of a protocol, which are complete after the first images."""
        return {**self.identity(), "num_features": self.num_features}

    @torch.no_grad()
    def extract(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return features and logits of uint8 images, float32 on the CPU.

        The network gets full blocks: the last one is padded, so that the bits of an image's features depend only on
        its position in the blocks.

        Raises:
            SettingError: The network returns another shape, or numbers that are not finite.
        """
        self.eval()
        size = self.block_size if images.device.type == "cpu" else self.accelerator_block_size or self.block_size
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

    def _checked(self, values: Tensor, size: int, what: str) -> Tensor:
        if values.dim() != 2 or len(values) != size or values.shape[1] == 0:
            shape = list(values.shape)
            message = f"the extractor {self.name} returned {what} {shape} for {size} images: it must be (N, {what})."
            raise SettingError(message, setting="metrics.extractor", value=shape, allowed="(N, d)")
        values = values.float().cpu()
        if not values.isfinite().all():
            message = f"the extractor {self.name} returned {what} that are not finite."
            raise SettingError(message, setting="metrics.extractor", allowed="finite numbers")
        return values


class ModuleExtractor(Extractor):
    """A custom network as an extractor.

    Args:
        module: Maps float32 images in [-1, 1], ``(N, C, H, W)``, to features ``(N, d)``, or to a pair of features and
            logits. The images are rounded to 256 levels, as 8-bit images are.
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
        return result if isinstance(result, tuple) else (result, None)


def hash_module(module: nn.Module) -> str:
    """Return the SHA-256 of a module's parameters and buffers (names, shapes and bits), its ``repr`` and its code.

    Settings that appear in none of these should be buffers or part of ``extra_repr``: otherwise the cached features of
    other settings are used.
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

    Only torch's newer switches are used: reading the older ones raises an error once both were set.
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
