"""Options for speed: what is compiled, where weights lie in memory, and that nothing is left after a fit."""

import copy
import os
import pickle
import warnings

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from torch import nn

from lightning_gans import DCGAN, GAN, VAE, VAEGAN, SettingError
from lightning_gans.training.acceleration import Acceleration
from tests.toys import MODELS, SHAPE, Toys, loader, make_batches, same, tiny

pytestmark = pytest.mark.slow

compile_with = torch.compile
DEFAULT = {"compile_mode": "default"}


@pytest.fixture
def quick_compiler(monkeypatch):
    """Compile with all of the machinery but the generation of code, and note what is compiled."""
    seen = []

    def compile(function, mode):
        compiled = compile_with(function, backend="aot_eager")

        def called(*args):
            seen.append((function.__self__, mode, torch.compiler.is_compiling()))
            return compiled(*args)

        return called

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", compile)
    yield seen
    torch._dynamo.reset()


def train(make_trainer, cls, steps=4, acceleration=None, **options):
    """Train some steps; ``acceleration`` has the arguments of the callback."""
    torch.manual_seed(0)
    model = tiny(cls, **options)
    callbacks = [] if acceleration is None else [Acceleration(**acceleration)]
    make_trainer(log_every_n_steps=2, callbacks=callbacks).fit(model, loader(make_batches(steps)))
    return model


def close(first, second):
    """Check that two models have the same weights but for rounding."""
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cls", MODELS)
def test_compiled_networks_learn_what_the_others_do(make_trainer, quick_compiler, cls):
    plain = train(make_trainer, cls)
    assert quick_compiler == []
    compiled = train(make_trainer, cls, acceleration={"compile_mode": "reduce-overhead"})
    networks = {getattr(compiled, name) for name in compiled.trained_networks}
    assert {network for network, _, _ in quick_compiler} == networks
    assert {mode for _, mode, _ in quick_compiler} == {"reduce-overhead"}
    close(compiled, plain)
    assert compiled.images_seen == plain.images_seen and compiled.weights_step == 4
    assert all("forward" not in vars(network) for network in networks)  # after the fit


@pytest.mark.slow
@pytest.mark.parametrize("cls", [GAN, VAE])
@pytest.mark.parametrize("options", [{"accumulate_batches": 2}, {"d_steps": 2}], ids=str)
def test_compiled_networks_in_longer_steps(make_trainer, quick_compiler, cls, options):
    if cls is VAE and "d_steps" in options:
        options = {"encoder_steps": 2}
    close(train(make_trainer, cls, acceleration=DEFAULT, **options), train(make_trainer, cls, **options))
    assert quick_compiler != []


def not_compiled(warned):
    """Return the warnings that a network is not compiled."""
    return [str(warning.message) for warning in warned if "is not compiled" in str(warning.message)]


@pytest.mark.parametrize("options", [{"penalties": {"r1": 0.5}, "penalty_interval": 3}, {"feature_matching": 1.0}])
def test_a_discriminator_that_cannot_be_compiled_runs_eagerly_with_one_warning(make_trainer, quick_compiler, options):
    plain = train(make_trainer, GAN, **options)
    with pytest.warns(UserWarning) as warned:
        compiled = train(make_trainer, GAN, acceleration=DEFAULT, **options)
    assert len(not_compiled(warned)) == 1
    assert {network for network, _, _ in quick_compiler} == {compiled.generator}
    close(compiled, plain)


def test_vaegan_compiles_the_encoder_and_the_decoder(make_trainer, quick_compiler):
    model = VAEGAN(SHAPE, 4, width=4)
    with pytest.warns(UserWarning) as warned:
        make_trainer(callbacks=[Acceleration(**DEFAULT)]).fit(model, loader(make_batches(1)))
    assert len(not_compiled(warned)) == 1
    assert {network for network, _, _ in quick_compiler} == {model.encoder, model.decoder}


def test_any_module_with_networks_is_compiled(make_trainer, quick_compiler):
    class Plain(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.fixed = nn.Linear(64, 1), nn.Linear(1, 1).requires_grad_(False)

        def training_step(self, batch, batch_idx):
            return self.net(batch[0].flatten(1)).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    model = Plain()
    make_trainer(callbacks=[Acceleration(**DEFAULT)]).fit(model, loader(make_batches(2)))
    assert {network for network, _, _ in quick_compiler} == {model.net}


def test_a_network_that_does_not_compile_runs_eagerly_with_a_warning(make_trainer, monkeypatch):
    def compile(function, mode):
        def fails(*args):
            raise RuntimeError("no compiler here\nand forty lines more")

        return fails if isinstance(function.__self__, nn.Module) else function

    monkeypatch.setattr(torch, "compile", compile)
    with pytest.warns(UserWarning) as warned:
        model = train(make_trainer, DCGAN, acceleration=DEFAULT)
    assert [message.split()[1] for message in not_compiled(warned)] == ["generator", "discriminator"]
    assert all(message.endswith(": no compiler here.") for message in not_compiled(warned))
    close(model, train(make_trainer, DCGAN))


def test_an_error_in_a_network_is_not_blamed_on_the_compiler(make_trainer, quick_compiler, recwarn):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 1)

        def forward(self, images):
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        train(make_trainer, GAN, discriminator=Broken(), acceleration=DEFAULT)
    assert not not_compiled(recwarn)


def test_a_custom_forward_is_kept(make_trainer, quick_compiler):
    calls = []
    model = tiny(GAN)
    own = model.discriminator.forward

    def forward(images):
        calls.append(1)
        return own(images)

    model.discriminator.forward = forward
    make_trainer(callbacks=[Acceleration(**DEFAULT)]).fit(model, loader(make_batches(2)))
    assert vars(model.discriminator)["forward"] is forward and calls


def test_a_copy_of_a_compiled_network_runs_its_own_forward(make_trainer, quick_compiler):
    found = []

    class Copying(Callback):
        def on_train_batch_end(self, trainer, model, *args):
            twin = copy.deepcopy(model.generator)
            for weight in twin.parameters():
                weight.data.zero_()
            found.append(twin(torch.ones(2, 4)).abs().max().item())
            pickle.dumps(model.generator)

    model = tiny(GAN)
    make_trainer(callbacks=[Copying(), Acceleration(**DEFAULT)]).fit(model, loader(make_batches(1)))
    assert found == [0.0]


def test_a_failed_fit_leaves_nothing_to_the_next(make_trainer, quick_compiler):
    class Stop(Callback):
        def on_train_batch_end(self, *args):
            raise ZeroDivisionError

    before = torch.get_float32_matmul_precision()
    model, acceleration = tiny(GAN), Acceleration("default", matmul_precision="medium")
    with pytest.raises(ZeroDivisionError):
        make_trainer(callbacks=[Stop(), acceleration]).fit(model, loader(make_batches(1)))
    make_trainer(callbacks=[acceleration]).fit(model, loader(make_batches(1)))
    assert torch.get_float32_matmul_precision() == before
    assert "forward" not in vars(model.generator)


def test_the_generators_update_asks_a_compiled_discriminator_for_no_weight_gradients(make_trainer, quick_compiler):
    asked = []

    class Watched(GAN):
        def generator_loss(self, real, fake, labels):
            asked.append(any(p.requires_grad for p in self.discriminator.parameters()))
            return super().generator_loss(real, fake, labels)

    model = train(make_trainer, Watched, acceleration=DEFAULT)
    assert asked == [False] * 4
    assert all(p.requires_grad for p in model.discriminator.parameters())


def test_samples_in_a_fit_are_not_compiled(make_trainer, quick_compiler):
    found = {}

    class Sampling(Callback):
        def on_train_batch_end(self, trainer, model, *args):
            stance = torch._dynamo.eval_frame._stance.stance
            with model.evaluating():
                found["within"] = torch._dynamo.eval_frame._stance.stance
            found["outside"] = stance

    model = tiny(GAN)
    make_trainer(callbacks=[Sampling(), Acceleration(**DEFAULT)]).fit(model, loader(make_batches(1)))
    assert found == {"within": "force_eager", "outside": "default"}


@pytest.mark.parametrize("cls", MODELS)
def test_channels_last_changes_the_place_in_memory_and_not_the_numbers(make_trainer, cls):
    formats = []

    def note(module, inputs, output):
        formats.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

    torch.manual_seed(0)
    shape = (3, 8, 8)
    model = tiny(cls, image_shape=shape)
    first = model.encoder if cls is VAE else model.discriminator
    first.register_forward_hook(note)
    make_trainer(callbacks=[Acceleration(channels_last=True)]).fit(model, loader(make_batches(3, shape=shape)))
    torch.manual_seed(0)
    plain = tiny(cls, image_shape=shape)
    make_trainer().fit(plain, loader(make_batches(3, shape=shape)))
    close(model, plain)
    convolutional = cls is DCGAN
    assert formats[0] == convolutional
    assert all(
        p.is_contiguous(memory_format=torch.channels_last) == convolutional for p in model.parameters() if p.dim() == 4
    )


def test_the_matrix_precision_is_that_of_the_fit(make_trainer):
    seen = []

    class Watched(GAN):
        def generator_loss(self, real, fake, labels):
            seen.append(torch.get_float32_matmul_precision())
            return super().generator_loss(real, fake, labels)

    before = torch.get_float32_matmul_precision()
    for setting, within in ((None, before), ("medium", "medium")):
        acceleration = Acceleration(matmul_precision=setting)
        make_trainer(callbacks=[acceleration]).fit(tiny(Watched), loader(make_batches(1)))
        assert seen.pop() == within and torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("make", [Acceleration, lambda **options: tiny(GAN, **options)], ids=["callback", "model"])
@pytest.mark.parametrize(("setting", "value"), [("compile_mode", "fast"), ("matmul_precision", "low")])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_settings_out_of_range_are_invalid(make, setting, value):
    with pytest.raises(SettingError) as error:
        make(**{setting: value})
    assert (error.value.setting, error.value.value) == (setting, value)


def test_the_models_settings_are_deprecated_and_make_the_callback(make_trainer, quick_compiler):
    options = {"compile_mode": "default", "channels_last": True, "matmul_precision": "high"}
    with pytest.warns(DeprecationWarning):
        model = tiny(GAN, **options)
    make_trainer().fit(model, loader(make_batches(1)))
    assert {network for network, _, _ in quick_compiler} == {model.generator, model.discriminator}
    assert not options.keys() & model.arguments.keys()  # they belong to the machine


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("cls", [GAN, DCGAN, VAE])
def test_code_is_generated_for_each_network_and_gives_the_same_numbers(make_trainer, cls, recwarn):
    torch._dynamo.reset()
    close(train(make_trainer, cls, acceleration=DEFAULT), train(make_trainer, cls))
    assert not not_compiled(recwarn)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("cls", [GAN, VAE])
def test_a_compiled_run_is_resumed_to_the_bit(make_trainer, tmp_path, cls):
    options = {"dropout": 0.3} if cls is GAN else {}

    def run(steps, checkpoint=None):
        torch._dynamo.reset()
        torch.manual_seed(0)
        model = tiny(cls, **options)
        trainer = make_trainer(max_epochs=-1, max_steps=steps, callbacks=[Acceleration(**DEFAULT)])
        trainer.fit(model, Toys(), ckpt_path=checkpoint)
        trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return model

    whole = run(6)
    run(3)
    assert same(run(6, tmp_path / "3.ckpt"), whole)


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"channels_last": True, "matmul_precision": "high"}], ids=str)
@pytest.mark.parametrize("cls", MODELS)
def test_an_update_on_a_gpu_does_not_wait_for_it(make_trainer, cls, options):
    class Strict(Callback):
        def on_train_batch_start(self, trainer, model, batch, index):
            if trainer.global_step >= 2:  # the first ones allocate and choose kernels
                torch.cuda.set_sync_debug_mode("error")

        def on_train_batch_end(self, *args):
            torch.cuda.set_sync_debug_mode("default")

    try:
        model, callbacks = tiny(cls), [Strict(), Acceleration(**options)]
        trainer = make_trainer(accelerator="gpu", devices=1, callbacks=callbacks, log_every_n_steps=1000)
        trainer.fit(model, loader([tuple(part.cuda() for part in batch) for batch in make_batches(6)]))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.global_step == 6


@pytest.mark.gpu
@pytest.mark.timeout(600)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("cls", [GAN, DCGAN, VAE])
def test_cuda_graphs_learn_what_the_others_do(make_trainer, cls, precision):
    def trained(*callbacks):
        torch.manual_seed(0)
        model = tiny(cls)
        options = {"accelerator": "gpu", "devices": 1, "precision": precision, "log_every_n_steps": 5}
        trainer = make_trainer(callbacks=[*callbacks], **options)
        trainer.fit(model, loader(make_batches(12)))
        return model.cpu()

    tolerance = 1e-3 if precision == "32-true" else 5e-2
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*is not compiled.*")
        compiled = trained(Acceleration("reduce-overhead"))
    for a, b in zip(compiled.parameters(), trained().parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("before", [None, "0"])
def test_optimizers_do_not_search_for_a_driver(make_trainer, monkeypatch, before):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if before is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    searches, seen = [], []
    monkeypatch.setattr(torch.cuda, "_raw_device_count_nvml", lambda: searches.append(1) or -1)

    class Watch(Callback):
        def on_train_batch_end(self, *_):
            seen.append((os.environ["CUDA_VISIBLE_DEVICES"], len(searches)))

    make_trainer(callbacks=[Acceleration(), Watch()]).fit(tiny(GAN), loader(make_batches(3)))
    assert [value for value, _ in seen] == [before or ""] * 3
    if before is None:
        assert len({count for _, count in seen}) == 1  # none within a step
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before


def test_a_fit_that_fails_leaves_nothing_behind(make_trainer):
    class Stop(Callback):
        def on_train_batch_end(self, *args):
            raise ZeroDivisionError

    before = torch.get_float32_matmul_precision(), os.environ.get("CUDA_VISIBLE_DEVICES")
    with pytest.raises(ZeroDivisionError):
        make_trainer(callbacks=[Stop(), Acceleration(matmul_precision="medium")]).fit(
            tiny(GAN), loader(make_batches(1))
        )
    assert (torch.get_float32_matmul_precision(), os.environ.get("CUDA_VISIBLE_DEVICES")) == before
