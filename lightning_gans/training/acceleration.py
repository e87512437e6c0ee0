"""Options for speed that change no line of a training step: compiled networks, memory format, matrix precision."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MethodType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_gans import randomness
from lightning_gans._lightning import rank_zero_warn
from lightning_gans.errors import SettingError
from lightning_gans.randomness import Stream
from lightning_gans.training.batches import Part
from lightning_gans.training.update import UpdatingModule

CompileMode = Literal["default", "reduce-overhead", "max-autotune"]
MatmulPrecision = Literal["highest", "high", "medium"]


class AcceleratedModule(UpdatingModule):
    """Applies the options in a fit; what it does to the process and to the networks' code is over with that."""

    compile_mode: CompileMode | None
    channels_last: bool
    matmul_precision: MatmulPrecision | None

    _is_compiled: bool = False
    """Whether the networks run compiled, as far as they can be."""

    _precision_before: str | None = None

    def start_acceleration(self) -> None:
        """Set what a fit needs before its first batch; to be called once the weights are on their device."""
        self.on_fit_end()  # which Lightning leaves out where a fit fails
        weights = [weight for weight in (*self.parameters(), *self.buffers()) if weight.dim() == 4]
        if self.channels_last and weights:
            self.image_format = torch.channels_last
            for weight in weights:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        if self.matmul_precision is not None:
            self._precision_before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision(self.matmul_precision)

    def on_fit_end(self) -> None:
        """Take it back."""
        if self._precision_before is not None:
            torch.set_float32_matmul_precision(self._precision_before)
            self._precision_before = None
        self._uncompile()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Compile the networks with the first batch of a fit; what CUDA graphs returned before may be overwritten."""
        if self.compile_mode is None:
            return
        if not self._is_compiled:
            self._is_compiled = True
            compile_networks(self, self.compilable_networks(), self.compile_mode, lambda: self.rehearse(batch))
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]

    def compilable_networks(self) -> tuple[str, ...]:
        """Return the names of the networks that are to be compiled."""
        return self.trained_networks

    def losses_of(self, parts: Sequence[Part]) -> Iterator[Tensor]:
        """Yield every loss that a step goes down, on batches of one update each."""
        raise NotImplementedError

    def rehearse(self, batch: Any) -> None:
        """Make every loss of a step and differentiate it, and leave nothing of it behind.

        But for what a loss of the user's own keeps in plain attributes.
        """
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        buffers = [
            (module, name, buffer, buffer.clone())
            for module in self.modules()
            for name, buffer in module.named_buffers(recurse=False)
        ]
        key = (self.run_seed, Stream.LAYERS, self.trainer.global_step, self.global_rank)
        precision = self.trainer.strategy.precision_plugin
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        try:
            with randomness.default_generator_seeded(self.device, *key), precision.train_step_context():
                for loss in self.losses_of(self.batch_parts(batch)[-1][:1]):
                    torch.autograd.grad(loss, parameters, allow_unused=True)
        finally:
            for module, name, buffer, before in buffers:
                setattr(module, name, buffer.copy_(before))

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Go backward, and say what to do where a gradient penalty begins later than the rehearsal.

        Raises:
            SettingError: A compiled network is differentiated twice.
        """
        try:
            super().manual_backward(loss, *args, **kwargs)
        except RuntimeError as error:
            if not self._is_compiled or "double backward" not in str(error):
                raise
            raise SettingError(
                f"compile_mode is {self.compile_mode!r}, but a network is differentiated twice from update "
                f"{self.trainer.global_step + 1} on, which it was not at the beginning: leave compile_mode out."
            ) from error

    def uncompiled(self) -> AbstractContextManager[Any]:
        """Run everything inside the block as if nothing were compiled, so that samples are the same bits either way."""
        return torch.compiler.set_stance("force_eager") if self._is_compiled else nullcontext()

    def frozen(self, network: nn.Module) -> AbstractContextManager[None]:
        """Keep a compiled network's weights out of the losses made inside the block.

        A compiled backward pass computes the gradients of all weights that have one, whatever is asked for.
        """
        return _frozen(network) if self._is_compiled else nullcontext()

    def _uncompile(self) -> None:
        for name in self.trained_networks:
            if isinstance(compiled := vars(getattr(self, name)).get("forward"), _Compiled):
                compiled.undo()
        self._is_compiled = False


def compile_networks(model: nn.Module, names: Iterable[str], mode: CompileMode, rehearse: Callable[[], None]) -> None:
    """Compile a model's networks, each only if its losses can then be differentiated.

    What ``torch.compile`` cannot do shows at the first backward pass: an operation that it does not know, no C++
    compiler on this machine, a gradient penalty (a network that is differentiated twice). So after each network a
    step is rehearsed, and one that fails stays as it was, with one warning. A network's ``forward`` is replaced, not
    the network: parameters keep their names, and hooks are still called.

    Args:
        model: Has the networks.
        names: The attributes that they are.
        mode: As in ``torch.compile``.
        rehearse: Makes all losses of a step and goes backward, and leaves nothing of it behind.
    """
    rehearse()  # what is wrong without compiling is the user's to see as it is
    for name in names:
        compiled = _Compiled(getattr(model, name), mode)
        try:
            rehearse()
        except Exception as error:  # of any kind: compilers raise what they like
            compiled.undo()
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            rank_zero_warn(f"The {name} is not compiled (compile_mode={mode!r}): {reason}")


class _Compiled:
    """A compiled ``forward`` in the place of a network's own; a copy of the network, or a pickle, has its own again."""

    def __init__(self, network: nn.Module, mode: CompileMode) -> None:
        self.network, self.before = network, vars(network).get("forward")
        self.function = torch.compile(network.forward, mode=mode)
        network.forward = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def undo(self) -> None:
        """Put back what was there."""
        del self.network.forward
        if self.before is not None:
            self.network.forward = self.before

    def __reduce__(self) -> tuple[Any, ...]:
        return _own_forward, (self.network,)


def _own_forward(network: nn.Module) -> MethodType:
    return MethodType(type(network).forward, network)


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
