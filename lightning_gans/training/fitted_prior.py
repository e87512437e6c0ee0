"""Fit a mixture prior to the posteriors of training images (Ghosh et al. 2020, arXiv:1903.12436, section 4)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_gans import randomness
from lightning_gans._lightning import Callback, TrainerFn, isolate_rng
from lightning_gans.errors import invalid
from lightning_gans.randomness import Stream
from lightning_gans.training.processes import rows_of_processes

NUM_LATENTS = 10_000
"""Number of training images to whose latents the mixture is fitted."""


class FitPrior(Callback):
    """Fits ``module.mixture`` before each validation, and at the end of an epoch without one.

    It uses the first images of an epoch, and the moving averages of the weights.
    """

    def __init__(self) -> None:
        self._fitted_step = -1

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Check the number of training images, if it is known, before the first step."""
        if hasattr(trainer.datamodule, "split_images"):
            num = len(trainer.datamodule.split_images("train"))
            check_components(len(pl_module.mixture.mean), min(num, NUM_LATENTS))

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Fit the mixture, so that the bound and the samples are those of the current weights."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._fit(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Fit the mixture, unless the validation of these weights did."""
        if self._fitted_step != trainer.global_step:
            self._fit(trainer, pl_module)

    def _fit(self, trainer: Any, module: Any) -> None:
        self._fitted_step = trainer.global_step
        loader = trainer.train_dataloader if trainer.datamodule is None else trainer.datamodule.train_dataloader()
        with isolate_rng():
            latents = _latents(trainer, module, _another(loader))
            mixture = fit(latents, len(module.mixture.mean))
        module.mixture.set(*trainer.strategy.broadcast(mixture))


def _another(loader: Any) -> Any:
    """Return a loader of the same batches with a position of its own, as the one in use is within its epoch."""
    other = copy.copy(loader)
    if isinstance(other, DataLoader):
        other.num_workers, other.timeout = 0, 0  # workers that stay alive would be those of the loader in use
    return other


def _latents(trainer: Any, module: Any, loader: Any) -> Tensor:
    """Return a draw from the posterior of each of the first images of an epoch, on all processes in their order."""
    found: list[Tensor] = []
    with module.evaluating(), torch.no_grad():
        for batch in loader:
            images, labels = module.images_and_labels(trainer.strategy.batch_to_device(batch))
            posterior = module.encode(images, labels)
            mean, log_variance = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in posterior)
            noise = randomness.randn_for(images, mean.shape[1], 0, Stream.POSTERIOR, device=mean.device)
            found.append(rows_of_processes(module, mean + noise * (0.5 * log_variance).exp()).cpu())
            if sum(map(len, found)) >= NUM_LATENTS:
                break
    return torch.cat(found)[:NUM_LATENTS]


def fit(latents: Tensor, num_components: int) -> tuple[Tensor, Tensor, Tensor]:
    """Fit a mixture of normal distributions by expectation maximization.

    Args:
        latents: Shape ``(N, D)``.
        num_components: Number K of components.

    Returns:
        The weights ``(K,)``, the means ``(K, D)`` and the covariances ``(K, D, D)``, float64.

    Raises:
        SettingError: There are fewer latents than components.
    """
    check_components(num_components, len(latents))
    from sklearn.mixture import GaussianMixture  # scikit-learn takes a second to import

    # Its k-means adds up in no fixed order.
    mixture = GaussianMixture(num_components, init_params="k-means++", max_iter=200, random_state=0)
    mixture.fit(latents.double().numpy())
    weights, mean, covariance = map(torch.from_numpy, (mixture.weights_, mixture.means_, mixture.covariances_))
    return weights, mean, covariance


def check_components(num_components: int, num_latents: int) -> None:
    """Raise :class:`SettingError` if a mixture has more components than there are latents to fit it to."""
    if num_latents < num_components:
        raise invalid("prior_components", num_components, f"at most the number of training images, {num_latents}")
