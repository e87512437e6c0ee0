"""Machine-dependent speed options: compiled networks, memory format, matrix precision."""

from __future__ import annotations

import os
from typing import Any, Literal, get_args

import torch
from torch import nn

from lightning_gans._lightning import Callback, pl, rank_zero_warn
from lightning_gans.errors import check_choice
from lightning_gans.training.compiled import Compiled

CompileMode = Literal["default", "reduce-overhead", "max-autotune"]
MatmulPrecision = Literal["highest", "high", "medium"]


_VISIBLE = "CUDA_VISIBLE_DEVICES"


class Acceleration(Callback):
    """Applies speed options during a fit, and reverts all but the memory format afterwards.

    They are not stored in checkpoints.

    Even without any option set, it saves machines without a GPU a search for the driver in every optimizer step.

    Args:
        compile_mode: Mode in which ``torch.compile`` compiles the trained networks; None does not compile. A network
            that cannot be compiled runs uncompiled, with a warning. So does one that is differentiated twice (a
            discriminator with a gradient penalty). ``reduce-overhead`` replays CUDA graphs.
        channels_last: Keeps convolutional weights and images as ``(N, H, W, C)`` in memory. It changes results only by
            rounding, and is faster where the device has kernels for it.
        matmul_precision: Precision of float32 matrix products, as in ``torch.set_float32_matmul_precision``: ``high``
            lets a GPU use TF32. None leaves it unchanged.

    Raises:
        SettingError: A setting is not one of its choices.
    """

    def __init__(
        self,
        compile_mode: CompileMode | None = None,
        channels_last: bool = False,
        matmul_precision: MatmulPrecision | None = None,
    ) -> None:
        if compile_mode is not None:
            check_choice("compile_mode", compile_mode, get_args(CompileMode))
        if matmul_precision is not None:
            check_choice("matmul_precision", matmul_precision, get_args(MatmulPrecision))
        self.compile_mode = compile_mode
        self.channels_last = channels_last
        self.matmul_precision = matmul_precision
        self._precision_before: str | None = None
        self._compiled: list[Compiled] = []
        self._hides_gpus = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Set the memory format and the precision, and compile; the weights are on their device by now."""
        if _VISIBLE not in os.environ and not torch.cuda.is_available():
            # With PYTORCH_NVML_BASED_CUDA_CHECK, which Lightning sets, torch loads the driver's library in each step
            # of Adam, if only to find that it is missing.
            os.environ[_VISIBLE], self._hides_gpus = "", True
        weights = [weight for weight in (*pl_module.parameters(), *pl_module.buffers()) if weight.dim() == 4]
        if self.channels_last and weights:
            pl_module.image_format = torch.channels_last
            for weight in weights:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        if self.matmul_precision is not None:
            self._precision_before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision(self.matmul_precision)
        if self.compile_mode is not None:
            self._compiled = [
                Compiled(name, network, self.compile_mode, rank_zero_warn)
                for name, network in _compilable(pl_module).items()
            ]

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Allow CUDA graphs to overwrite what they returned in the previous step."""
        if self._compiled:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Revert everything but the memory format."""
        self.on_fit_end(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Revert everything but the memory format."""
        if self._hides_gpus:
            os.environ.pop(_VISIBLE, None)
            self._hides_gpus = False
        if self._precision_before is not None:
            torch.set_float32_matmul_precision(self._precision_before)
            self._precision_before = None
        for compiled in self._compiled:
            compiled.undo()
        self._compiled = []


def _compilable(module: Any) -> dict[str, nn.Module]:
    """Return the networks to compile by name: ``trained_networks``, or all children with weights."""
    names = getattr(module, "trained_networks", None)
    if names is None:
        names = [name for name, child in module.named_children() if any(p.requires_grad for p in child.parameters())]
    reasons = module.not_compiled() if hasattr(module, "not_compiled") else {}
    for name, reason in reasons.items():
        rank_zero_warn(f"The {name} is not compiled: {reason}")
    return {name: getattr(module, name) for name in names if name not in reasons}
