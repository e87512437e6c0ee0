"""Low precision, clipped gradients, and runs that leave the finite numbers."""

import copy
import math
import sys

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn

from lightning_gans import GAN, VAE, Checkpoint, losses, randomness
from lightning_gans.cli.main import main
from lightning_gans.errors import DivergedError
from lightning_gans.io.checkpoint_io import AtomicCheckpointIO
from lightning_gans.models import load
from lightning_gans.randomness import Stream
from tests.toys import LATENT_DIM, MODELS, Updates, loader, make_batches, tiny, weights

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def precision(name, scale=1024.0):
    """Return the trainer's plugins for a precision; Lightning lets nobody have float16 on the CPU by its name."""
    if name == "16-mixed":
        return [MixedPrecision(name, "cpu", torch.amp.GradScaler("cpu", init_scale=scale))]
    return [MixedPrecision(name, "cpu")] if name == "bf16-mixed" else []


def make(cls, **options):
    torch.manual_seed(0)
    model = tiny(cls, **options)
    model.run_seed = 5
    return model


def fit(trainer, model, batches):
    trainer.fit(model, loader(batches))
    return model


# --- low precision ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("cls", MODELS)
def test_every_model_trains_in_low_precision_with_losses_in_float32(make_trainer, cls, name):
    model, losses, used = make(cls), [], []
    backward = model.manual_backward
    model.manual_backward = lambda loss, **options: (losses.append(loss.detach()), backward(loss, **options))
    before = {name: weights(network) for name, network in model.networks(model.trained_networks).items()}
    first = getattr(model, model.trained_networks[0])
    first.register_forward_hook(lambda *_: used.append(torch.get_autocast_dtype("cpu")))
    fit(make_trainer(plugins=precision(name)), model, make_batches(12))
    assert {loss.dtype for loss in losses} == {torch.float32}
    assert set(used) == {torch.float16 if name == "16-mixed" else torch.bfloat16}
    assert torch.stack(losses).isfinite().all()
    for network, old in before.items():
        assert not any(a.equal(b) for a, b in zip(old, weights(getattr(model, network)), strict=True))
    assert all(value.isfinite().all() for value in model.state_dict().values())


# --- clipping ---------------------------------------------------------------------------------------------


def gradients_by_hand(model, images, limit):
    """Return what float64 makes of the first update of each network: its gradient, clipped by torch."""
    model, images = copy.deepcopy(model).double(), images.double()
    latents = (len(images), LATENT_DIM)
    if isinstance(model, VAE):
        noise = randomness.randn(latents, 5, Stream.POSTERIOR, 0, 0).double()
        reconstruction, kl = model.bound_terms(images, noise, ema=False)
        (kl - reconstruction).mean().backward()
        return [clipped(network, limit) for network in (model.encoder, model.decoder)]
    fake = model.generator(randomness.randn(latents, 5, Stream.NOISE, 0, 0).double())
    losses.discriminator_loss(model.discriminator(images), model.discriminator(fake.detach())).backward()
    of_discriminator = clipped(model.discriminator, limit)
    torch.optim.Adam(model.discriminator.parameters(), model.discriminator_lr, model.betas).step()
    losses.nonsaturating_generator_loss(model.discriminator(fake)).backward()
    return [clipped(model.generator, limit), of_discriminator]


def clipped(network, limit):
    nn.utils.clip_grad_norm_(network.parameters(), math.inf if limit is None else limit)
    return torch.cat([parameter.grad.flatten().clone() for parameter in network.parameters()])


def gradients(make_trainer, cls, limit, name="32-true", scale=1024.0, batches=4):
    """Return the gradients that each network's optimizer gets in a fit."""
    updates, model = Updates(), make(cls, gradient_clip_val=limit)
    fit(make_trainer(plugins=precision(name, scale), callbacks=[updates]), model, make_batches(batches))
    return [updates.gradients_of(network) for network in model.trained_networks]


def norms(*args, **options):
    return [[gradient.norm().item() for gradient in of] for of in gradients(*args, **options)]


@pytest.mark.parametrize("name", PRECISIONS)
@pytest.mark.parametrize("limit", [None, 1e-3])
@pytest.mark.parametrize("cls", [GAN, VAE])
def test_optimizers_get_the_gradients_that_torch_clips_in_float64(make_trainer, cls, limit, name):
    expected = gradients_by_hand(make(cls), make_batches(1)[0][0], limit)
    error = {"32-true": 1e-5, "16-mixed": 5e-3, "bf16-mixed": 4e-2}[name]
    for by_hand, (gradient,) in zip(expected, gradients(make_trainer, cls, limit, name, batches=1), strict=True):
        assert (gradient - by_hand).norm() < error * by_hand.norm()


@pytest.mark.parametrize("name", PRECISIONS)
@pytest.mark.parametrize("cls", MODELS)
def test_each_network_is_clipped_to_the_limit_by_its_own_norm(make_trainer, cls, name):
    limit = min(norm for of in norms(make_trainer, cls, None, name) for norm in of) / 4
    for of in norms(make_trainer, cls, limit, name):
        assert of == pytest.approx([limit] * 4, rel=1e-3)


@pytest.mark.parametrize("cls", [GAN, VAE])
def test_a_limit_that_is_not_reached_changes_nothing(make_trainer, cls):
    assert norms(make_trainer, cls, None) == norms(make_trainer, cls, 1e6)


def test_the_scale_of_float16_does_not_reach_the_clipped_gradients(make_trainer):
    low, high = (norms(make_trainer, GAN, 0.01, "16-mixed", scale, batches=2) for scale in (2.0**4, 2.0**14))
    assert low == [pytest.approx(other, rel=1e-2) for other in high]
    assert max(norm for of in low for norm in of) == pytest.approx(0.01, rel=1e-3)


# --- divergence -------------------------------------------------------------------------------------------

FROM = 5  # the updates before the first bad one


class Spoilt:
    """Multiplies a loss by a number once so many updates are done."""

    factor = math.nan

    def spoil(self, loss):
        return loss * self.factor if self.trainer.global_step >= FROM else loss


class SpoiltD(Spoilt, GAN):
    def discriminator_loss(self, real, fake, labels):
        return self.spoil(super().discriminator_loss(real, fake, labels))


class SpoiltG(Spoilt, GAN):
    def generator_loss(self, real, fake, labels):
        return self.spoil(super().generator_loss(real, fake, labels))


class SpoiltVAE(Spoilt, VAE):
    def loss_terms(self, *args):
        loss, terms = super().loss_terms(*args)
        return self.spoil(loss), {**terms, "reconstruction": self.spoil(terms["reconstruction"])}


SPOILT = {"d": SpoiltD, "g": SpoiltG, "vae": SpoiltVAE}
NAMES = {"d": "d_loss", "g": "g_loss", "vae": "reconstruction"}


@pytest.fixture
def diverge(make_trainer, tmp_path):
    """Train until the run says that it has diverged; return what it says and its last checkpoint."""

    def diverge(name, factor, every, save_every=2, **options):
        model = tiny(SPOILT[name])
        model.factor = factor
        trainer = make_trainer(
            callbacks=[Checkpoint(dirpath=str(tmp_path / "checkpoints"), every_n_steps=save_every)],
            enable_checkpointing=True,
            logger=CSVLogger(tmp_path, "logs", version=0),
            log_every_n_steps=every,
            plugins=[AtomicCheckpointIO(), *options.pop("plugins", [])],
        )
        with pytest.raises(DivergedError) as raised:
            fit(trainer, model, make_batches(40, 4))
        return str(raised.value), trainer.global_step, tmp_path / "checkpoints" / "last.ckpt"

    return diverge


def check_that_it_is_finite(last, step):
    """Check the last checkpoint: its step, every number in it, and that it loads."""
    checkpoint = torch.load(last, weights_only=True)
    assert checkpoint["global_step"] == step

    def tensors(nest):
        if isinstance(nest, dict):
            nest = list(nest.values())
        if isinstance(nest, (list, tuple)):
            return [tensor for item in nest for tensor in tensors(item)]
        return [nest] if isinstance(nest, torch.Tensor) else []

    found = tensors([checkpoint["state_dict"], checkpoint["optimizer_states"]])
    assert len(found) > 10 and all(tensor.isfinite().all() for tensor in found)
    assert load(last).sample(4, seed=0).isfinite().all()


@pytest.mark.parametrize("factor", [math.nan, math.inf])
@pytest.mark.parametrize("name", SPOILT)
def test_a_run_that_diverges_stops_at_the_next_row_of_its_log(diverge, name, factor):
    message, step, last = diverge(name, factor, every=4, save_every=5)
    assert step == 8
    assert message.startswith("update 8 is not finite")
    check_that_it_is_finite(last, 5)


@pytest.mark.parametrize("name", SPOILT)
def test_the_message_names_the_update_the_losses_and_what_to_try(diverge, name):
    message, step, last = diverge(name, math.nan, every=3, save_every=4)
    assert step == 6
    assert message.startswith("update 6 is not finite: ")
    assert f"{NAMES[name]} nan" in message
    assert "gradient_clip_val" in message and "bf16-mixed" in message
    check_that_it_is_finite(last, 4)


@pytest.mark.parametrize("factor", [math.nan, math.inf])
@pytest.mark.parametrize("name", SPOILT)
def test_what_is_not_finite_is_not_saved_over_what_is(diverge, name, factor):
    message, step, last = diverge(name, factor, every=50)
    assert step == 6
    assert "training has diverged" in message
    check_that_it_is_finite(last, 4)


@pytest.mark.parametrize("name", SPOILT)
def test_float16_that_skips_the_bad_steps_does_not_hide_them(diverge, name):
    message, step, last = diverge(name, math.nan, every=8, save_every=5, plugins=precision("16-mixed"))
    assert step == 8
    assert f"{NAMES[name]} nan" in message
    check_that_it_is_finite(last, 5)


MODULE = """
from lightning_gans import DCGAN
class Diverging(DCGAN):
    def generator_loss(self, real, fake, labels):
        return super().generator_loss(real, fake, labels) * float("nan")
"""


def test_the_command_line_says_it_in_three_lines(tmp_path, monkeypatch, capsys):
    (tmp_path / "diverging_models.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    words = ["--model", "diverging_models.Diverging", "--model.width", "4", "--metrics.enabled", "false"]
    with pytest.raises(SystemExit) as left:
        main(["fit", "-c", "quickstart", "-c", "fast", *words, "--trainer.accelerator", "cpu"])
    said = capsys.readouterr().err
    said = said[said.index("lightning-gans: ") :].strip()
    assert left.value.code == 1
    assert said.startswith("lightning-gans: update 1 is not finite: ")
    assert "g_loss nan" in said and "gradient_clip_val" in said
    assert len(said.splitlines()) <= 3 and "Traceback" not in said
    assert not list(tmp_path.rglob("*.ckpt"))
