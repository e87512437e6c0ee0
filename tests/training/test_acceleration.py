import copy
import pickle
import warnings

import pytest
import torch
from pytorch_lightning import Callback
from torch import nn

from lightning_gans import DCGAN, GAN, VAE, SettingError
from tests.toys import MODELS, SHAPE, Toys, loader, make_batches, same, tiny

compile_with = torch.compile


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


class Unpinned(nn.Module):
    """Multiplies by a mean that each call replaces instead of changing it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, noise):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * noise.detach().mean() + 1.0
        return (noise.mean(1) * self.weight + 0.0 * self.mean)[:, None, None, None].expand(-1, *SHAPE).tanh()


def train(make_trainer, cls, steps=4, **options):
    torch.manual_seed(0)
    model = tiny(cls, **options)
    make_trainer(log_every_n_steps=2).fit(model, loader(make_batches(steps)))
    return model


def close(first, second):
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cls", MODELS)
def test_compiled_networks_learn_what_the_others_do(make_trainer, quick_compiler, cls):
    plain = train(make_trainer, cls)
    assert quick_compiler == []
    compiled = train(make_trainer, cls, compile_mode="reduce-overhead")
    networks = {getattr(compiled, name) for name in compiled.trained_networks}
    assert {network for network, _, _ in quick_compiler} == networks
    assert {mode for _, mode, _ in quick_compiler} == {"reduce-overhead"}
    close(compiled, plain)
    assert compiled.images_seen == plain.images_seen and compiled.weights_step == 4
    assert all("forward" not in vars(network) for network in networks)  # it is over with the fit


@pytest.mark.parametrize("cls", [GAN, VAE])
@pytest.mark.parametrize("options", [{"accumulate_batches": 2}, {"d_steps": 2}], ids=str)
def test_compiled_networks_in_longer_steps(make_trainer, quick_compiler, cls, options):
    if cls is VAE and "d_steps" in options:
        options = {"encoder_steps": 2}
    close(train(make_trainer, cls, compile_mode="default", **options), train(make_trainer, cls, **options))
    assert quick_compiler != []


class Penalized(GAN):
    """A GAN whose discriminator is differentiated twice (Mescheder et al. 2018)."""

    def discriminator_loss(self, real, fake, labels):
        real = real.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.discriminator(real).sum(), real, create_graph=True)
        return super().discriminator_loss(real, fake, labels) + slope.square().sum(1).mean()


def test_a_discriminator_with_a_gradient_penalty_stays_as_it_is_with_one_warning(make_trainer, quick_compiler):
    plain = train(make_trainer, Penalized)
    with pytest.warns(UserWarning) as warned:
        compiled = train(make_trainer, Penalized, compile_mode="default")
    messages = [str(warning.message) for warning in warned if "is not compiled" in str(warning.message)]
    assert len(messages) == 1 and messages[0].startswith("The discriminator is not compiled (compile_mode='default'): ")
    assert "double backward" in messages[0]
    assert quick_compiler[-1][0] is compiled.generator
    close(compiled, plain)


def test_a_compiler_that_fails_fails_for_one_network_only(make_trainer, monkeypatch):
    def compile(function, mode):
        def fails(*args):
            raise RuntimeError("no compiler here\nand forty lines more")

        return fails if isinstance(function.__self__, nn.Module) else function

    monkeypatch.setattr(torch, "compile", compile)
    with pytest.warns(UserWarning) as warned:
        model = train(make_trainer, DCGAN, compile_mode="default")
    messages = [str(warning.message) for warning in warned if "is not compiled" in str(warning.message)]
    assert [message.split()[1] for message in messages] == ["generator", "discriminator"]
    assert [message.split(": ", 1)[1] for message in messages] == ["no compiler here"] * 2
    close(model, train(make_trainer, DCGAN))


def test_an_error_of_the_users_own_is_not_blamed_on_the_compiler(make_trainer, quick_compiler, recwarn):
    class Broken(GAN):
        def generator_loss(self, real, fake, labels):
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        train(make_trainer, Broken, compile_mode="default")
    assert not [warning for warning in recwarn if "is not compiled" in str(warning.message)]


def test_a_penalty_that_begins_later_ends_the_run_with_a_sentence(make_trainer, quick_compiler):
    class Lazy(Penalized):
        def discriminator_loss(self, real, fake, labels):
            late = self.trainer.global_step >= 2
            return (super() if late else super(Penalized, self)).discriminator_loss(real, fake, labels)

    expected = SettingError, r"compile_mode is 'default', but .* twice from update 3 on"
    if torch.__version__.startswith("2.10."):  # which says so itself, in the midst of the loss
        expected = RuntimeError, "donated buffers"
    with pytest.raises(expected[0], match=expected[1]):
        train(make_trainer, Lazy, compile_mode="default")
    assert train(make_trainer, Lazy).weights_step == 4


def test_a_forward_of_the_users_own_is_kept(make_trainer, quick_compiler):
    calls = []
    model = tiny(GAN, compile_mode="default")
    own = model.discriminator.forward

    def forward(images):
        calls.append(1)
        return own(images)

    model.discriminator.forward = forward
    make_trainer().fit(model, loader(make_batches(2)))
    assert vars(model.discriminator)["forward"] is forward and calls


def test_a_copy_of_a_compiled_network_is_a_network_of_its_own(make_trainer, quick_compiler):
    found = []

    class Copying(Callback):
        def on_train_batch_end(self, trainer, model, *args):
            twin = copy.deepcopy(model.generator)
            for weight in twin.parameters():
                weight.data.zero_()
            found.append(twin(torch.ones(2, 4)).abs().max().item())
            pickle.dumps(model.generator)

    model = tiny(GAN, compile_mode="default")
    make_trainer(callbacks=[Copying()]).fit(model, loader(make_batches(1)))
    assert found == [0.0]


def test_a_fit_that_fails_leaves_nothing_to_the_next(make_trainer, quick_compiler):
    class Stop(Callback):
        def on_train_batch_end(self, *args):
            raise ZeroDivisionError

    before = torch.get_float32_matmul_precision()
    model = tiny(GAN, compile_mode="default", matmul_precision="medium")
    with pytest.raises(ZeroDivisionError):
        make_trainer(callbacks=[Stop()]).fit(model, loader(make_batches(1)))
    make_trainer().fit(model, loader(make_batches(1)))
    assert torch.get_float32_matmul_precision() == before
    assert "forward" not in vars(model.generator)


def test_buffers_that_a_network_replaces_reach_the_average_and_survive_a_rehearsal(make_trainer):
    model = tiny(GAN, generator=Unpinned())
    make_trainer().fit(model, loader(make_batches(4)))
    assert model.generator.mean.item() > 3 and model.generator_ema.mean.equal(model.generator.mean)
    before = model.generator.mean.clone()
    model.rehearse(make_batches(1)[0])
    assert model.generator.mean.equal(before)


@pytest.mark.parametrize("cls", MODELS)
def test_a_rehearsal_leaves_nothing_behind(make_trainer, cls):
    model = tiny(cls)
    make_trainer().fit(model, loader(make_batches(2)))
    state, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    model.rehearse(make_batches(1, seed=5)[0])
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())
    assert torch.get_rng_state().equal(rng)
    for parameter, before in zip(model.parameters(), gradients, strict=True):
        assert parameter.grad is None if before is None else parameter.grad.equal(before)


def test_a_rehearsal_has_the_penalties_that_a_later_update_will_have(make_trainer):
    seen = []

    class Noted(GAN):
        def penalty_terms(self, names, *others):
            seen.append(set(names))
            return super().penalty_terms(names, *others)

    model = tiny(Noted, penalties={"r1": 1.0}, penalty_interval=4)
    make_trainer().fit(model, loader(make_batches(2)))
    model.rehearse(make_batches(1)[0])
    assert seen == [set(), set(), {"r1"}]


def test_the_generators_update_asks_a_compiled_discriminator_for_no_weight_gradients(make_trainer, quick_compiler):
    asked = []

    class Watched(GAN):
        def generator_loss(self, real, fake, labels):
            asked.append(any(p.requires_grad for p in self.discriminator.parameters()))
            return super().generator_loss(real, fake, labels)

    model = train(make_trainer, Watched, compile_mode="default")
    assert not any(asked[-4:])
    assert all(p.requires_grad for p in model.discriminator.parameters())


def test_samples_in_a_fit_are_not_compiled(make_trainer, quick_compiler):
    found = {}

    class Sampling(Callback):
        def on_train_batch_end(self, trainer, model, *args):
            stance = torch._dynamo.eval_frame._stance.stance
            with model.evaluating():
                found["within"] = torch._dynamo.eval_frame._stance.stance
            found["outside"] = stance

    model = tiny(GAN, compile_mode="default")
    make_trainer(callbacks=[Sampling()]).fit(model, loader(make_batches(1)))
    assert found == {"within": "force_eager", "outside": "default"}


@pytest.mark.parametrize("cls", MODELS)
def test_channels_last_changes_the_place_in_memory_and_not_the_numbers(make_trainer, cls):
    formats = []

    def note(module, inputs, output):
        formats.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

    torch.manual_seed(0)
    shape = (3, 8, 8)
    model = tiny(cls, image_shape=shape, channels_last=True)
    judge = model.encoder if cls is VAE else model.discriminator
    judge.register_forward_hook(note)
    make_trainer().fit(model, loader(make_batches(3, shape=shape)))
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
        make_trainer().fit(tiny(Watched, matmul_precision=setting), loader(make_batches(1)))
        assert seen.pop() == within and torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compile_mode": "fast"}, "compile_mode is 'fast'.*default, reduce-overhead, max-autotune"),
        ({"matmul_precision": "low"}, "matmul_precision is 'low'.*highest, high, medium"),
    ],
)
def test_wrong_settings_are_one_sentence(options, message):
    with pytest.raises(SettingError, match=message):
        tiny(GAN, **options)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("cls", [GAN, DCGAN, VAE])
def test_code_is_generated_for_each_network_and_gives_the_same_numbers(make_trainer, cls, recwarn):
    torch._dynamo.reset()
    close(train(make_trainer, cls, compile_mode="default"), train(make_trainer, cls))
    assert not [warning for warning in recwarn if "is not compiled" in str(warning.message)]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("cls", [GAN, VAE])
def test_a_compiled_run_is_resumed_to_the_bit(make_trainer, tmp_path, cls):
    options = {"compile_mode": "default", **({"dropout": 0.3} if cls is GAN else {})}

    def run(steps, checkpoint=None):
        torch._dynamo.reset()
        torch.manual_seed(0)
        model = tiny(cls, **options)
        trainer = make_trainer(max_epochs=-1, max_steps=steps)
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
        model = tiny(cls, **options)
        trainer = make_trainer(accelerator="gpu", devices=1, callbacks=[Strict()], log_every_n_steps=1000)
        trainer.fit(model, loader([tuple(part.cuda() for part in batch) for batch in make_batches(6)]))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.global_step == 6


@pytest.mark.gpu
@pytest.mark.timeout(600)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("cls", [GAN, DCGAN, VAE])
def test_cuda_graphs_learn_what_the_others_do(make_trainer, cls, precision):
    def trained(**options):
        torch.manual_seed(0)
        model = tiny(cls, **options)
        trainer = make_trainer(accelerator="gpu", devices=1, precision=precision, log_every_n_steps=5)
        trainer.fit(model, loader(make_batches(12)))
        return model.cpu()

    tolerance = 1e-3 if precision == "32-true" else 5e-2
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*is not compiled.*")
        compiled = trained(compile_mode="reduce-overhead")
    for a, b in zip(compiled.parameters(), trained().parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
