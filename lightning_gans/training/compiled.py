"""Networks whose ``forward`` is compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MethodType
from typing import Any

import torch
from torch import nn

from lightning_gans.errors import first_line


class Compiled:
    """A compiled ``forward`` that replaces a network's own; copies and pickles of the network have the original again.

    The network's ``forward`` is replaced, not the network, so that parameters keep their names and hooks are called.

    Args:
        name: Name of the network, for the warning.
        network: The network.
        mode: Mode of ``torch.compile``.
        warn: Called with a message if the network cannot be compiled; it then runs uncompiled.
    """

    def __init__(self, name: str, network: nn.Module, mode: str, warn: Callable[[str], Any]) -> None:
        self.name, self.network, self.warn, self.before = name, network, warn, vars(network).get("forward")
        self.eager = network.forward
        self.function = torch.compile(network.forward, mode=mode)
        network.forward = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the compiled function, or the network's own if the compiler fails."""
        try:
            return self.function(*args, **kwargs)
        except Exception as error:  # compilers raise errors of any type
            self.function = self.eager
            output = self.eager(*args, **kwargs)  # an error of the network itself is raised here
            self.warn(f"The {self.name} is not compiled: {first_line(error)}.")
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
    return isinstance(vars(network).get("forward"), Compiled)


def uncompiled(module: nn.Module) -> AbstractContextManager[Any]:
    """Run everything inside the block eagerly, so that samples have the same bits with and without compilation."""
    compiled = any(is_compiled(child) for child in module.children())
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Keep a compiled network's weights out of the losses inside the block; do nothing to an uncompiled network.

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
