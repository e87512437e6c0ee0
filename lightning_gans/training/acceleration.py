"""Machine-dependent speed options: compiled networks, memory format, matrix precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MethodType
from typing import Any, Literal, get_args

import torch
from torch import nn

from lightning_gans._lightning import Callback, pl, rank_zero_warn
from lightning_gans.errors import check_choice

CompileMode = Literal["default", "reduce-overhead", "max-autotune"]
MatmulPrecision = Literal["highest", "high", "medium"]


class Acceleration(Callback):
    """Applies speed options during a fit and reverts them afterwards; they are not stored in checkpoints.

    Args:
        compile_mode: Mode in which ``torch.compile`` compiles the trained networks; None does not compile. A network
            that cannot be compiled runs as it is, with a warning, and so does one that is differentiated twice (a
            discriminator with a gradient penalty). ``reduce-overhead`` replays CUDA graphs.
        channels_last: Keeps convolutional weights and images as ``(N, H, W, C)`` in memory. It changes results by
            rounding only, and is faster where the device has kernels for it.
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
        self._compiled: list[_Compiled] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Set the memory format and the precision, and compile; the weights are on their device."""
        self.on_fit_end(trainer, pl_module)  # Lightning skips on_fit_end if a fit fails
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
                _Compiled(name, network, self.compile_mode) for name, network in _compilable(pl_module).items()
            ]

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Allow CUDA graphs to overwrite what they returned in the step before."""
        if self._compiled:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]

    def on_fit_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Revert everything."""
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


class _Compiled:
    """A compiled ``forward`` that replaces a network's own; a copy of the network, or a pickle, has the original again.

    The network's ``forward`` is replaced, not the network, so that parameters keep their names and hooks are called.
    """

    def __init__(self, name: str, network: nn.Module, mode: CompileMode) -> None:
        self.name, self.network, self.before = name, network, vars(network).get("forward")
        self.eager = network.forward
        self.function = torch.compile(network.forward, mode=mode)
        network.forward = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.function(*args, **kwargs)
        except Exception as error:  # of any type: compilers raise anything
            self.function = self.eager
            output = self.eager(*args, **kwargs)  # an error of the network itself is raised here
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            rank_zero_warn(f"The {self.name} is not compiled: {reason}")
            return output

    def undo(self) -> None:
        """Restore the network's own ``forward``."""
        vars(self.network).pop("forward", None)
        if self.before is not None:
            self.network.forward = self.before

    def __reduce__(self) -> tuple[Any, ...]:
        return _own_forward, (self.network,)


def _own_forward(network: nn.Module) -> MethodType:
    return MethodType(type(network).forward, network)


def is_compiled(network: nn.Module) -> bool:
    """Return whether a network runs compiled."""
    return isinstance(vars(network).get("forward"), _Compiled)


def uncompiled(module: nn.Module) -> AbstractContextManager[Any]:
    """Run everything inside the block eagerly, so that samples have the same bits with and without compilation."""
    compiled = any(is_compiled(child) for child in module.children())
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Keep a compiled network's weights out of the losses inside the block; do nothing to others.

    A compiled backward pass computes gradients of all weights that require them, even if ``inputs=`` asks for fewer.
    """
    trained = [p for p in network.parameters() if p.requires_grad] if is_compiled(network) else []
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
