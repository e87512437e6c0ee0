import math

import pytest
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn

from lightning_gans import VQVAE, CollapseWatchdog, SettingError, randomness
from lightning_gans.models import load
from lightning_gans.randomness import Stream
from tests.toys import NUM_CLASSES, SHAPE, Toys, loader, make_batches, weights

SMALL = {"width": 4, "code_dim": 3, "num_codes": 8, "prior_width": 8, "prior_layers": 1, "prior_heads": 2}


def tiny(**options):
    """Make a model with a grid of 2 x 2 codes."""
    return VQVAE(SHAPE, **{**SMALL, **options})


def fit(trainer, model, batches):
    model.run_seed = 3
    trainer.fit(model, loader(batches))
    return model


# --- the autoencoder --------------------------------------------------------------------------------------


def test_the_loss_and_its_straight_through_gradient_by_hand():
    model, (images, _) = tiny(commitment=0.7).double(), make_batches(1)[0]
    images = images.double()
    vectors = model.encoder(images)
    codes = model.quantizer.nearest(vectors)
    loss, terms = model.loss_terms(images, vectors, codes)
    found = torch.autograd.grad(loss, [*model.encoder.parameters(), *model.decoder.parameters()])

    quantized = model.quantizer.codebook[codes].movedim(-1, 1).requires_grad_()
    mse = (model.decoder(quantized) - images).square().mean()
    torch.testing.assert_close(terms["mse"], mse)
    of_decoder = torch.autograd.grad(mse, [quantized, *model.decoder.parameters()])
    vectors = model.encoder(images)
    distance = (vectors - quantized.detach()).square().mean()
    torch.testing.assert_close(loss, mse + 0.7 * distance)
    pulled = (of_decoder[0] * vectors).sum() + 0.7 * distance
    wanted = [*torch.autograd.grad(pulled, [*model.encoder.parameters()]), *of_decoder[1:]]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_updates_equal_a_hand_written_loop(make_trainer):
    options = {"prior_start": 1.0, "encoder_lr": 0.01, "decoder_lr": 0.02, "decay": 0.6, "revive_below": 0.5}
    torch.manual_seed(0)
    model = tiny(**options).double()
    torch.manual_seed(0)
    by_hand = tiny(**options).double()
    batches = make_batches(4)
    fit(make_trainer(), model, batches)

    encoder = torch.optim.Adam(by_hand.encoder.parameters(), lr=0.01, betas=(0.9, 0.999))
    decoder = torch.optim.Adam(by_hand.decoder.parameters(), lr=0.02, betas=(0.9, 0.999))
    counts, sums, moved = torch.zeros(8).double(), torch.zeros(8, 3).double(), 0
    codebook = by_hand.quantizer.codebook.clone()
    for step, (images, _) in enumerate(batches):
        images = images.double()
        z = by_hand.encoder(images).movedim(1, -1)
        codes = (z[..., None, :] - codebook).square().sum(-1).argmin(-1)
        e = codebook[codes]
        made = by_hand.decoder((z + (e - z).detach()).movedim(-1, 1))
        loss = (made - images).square().mean() + 0.25 * (z - e).square().mean()
        by_hand.zero_grad()
        loss.backward()
        encoder.step()
        decoder.step()
        rows = z.detach().reshape(-1, 3)
        chosen = (torch.rand(8, generator=randomness.generator(3, Stream.CODE, step)).double() * 32).long()
        counts = 0.6 * counts + 0.4 * codes.flatten().bincount(minlength=8).double()
        for code in range(8):
            sums[code] = 0.6 * sums[code] + 0.4 * rows[codes.flatten() == code].sum(0)
        unused = counts < 0.5 * counts.mean()
        counts, mean = torch.where(unused, counts.mean(), counts), counts.mean()
        sums[unused] = counts[unused][:, None] * rows[chosen[unused]]
        codebook = sums / counts[:, None]
        moved += int(unused.sum()) if step > 0 else 0
        assert mean > 0
    assert moved > 0
    torch.testing.assert_close(model.quantizer.codebook, codebook, rtol=0, atol=1e-12)
    trained = dict(model.named_parameters())
    for name, value in by_hand.named_parameters():
        if not name.startswith("ema."):
            torch.testing.assert_close(trained[name], value, rtol=0, atol=1e-12)


def test_what_is_logged_of_the_codes(make_trainer):
    trainer, model, batches = make_trainer(log_every_n_steps=1), tiny(prior_start=1.0), make_batches(1)
    codes = model.codes_of(batches[0][0], ema=False)
    _, terms = model.loss_terms(batches[0][0], model.encoder(batches[0][0]), codes)
    fit(trainer, model, batches)
    shares = codes.flatten().bincount(minlength=8) / 32
    used = shares[shares > 0]
    wanted = {"code_usage": len(used) / 8, "perplexity": math.exp(-(used * used.log()).sum())}
    wanted |= {name: value.item() for name, value in terms.items()}
    logged = {name: trainer.callback_metrics[f"train/{name}"].item() for name in wanted}
    assert logged == pytest.approx(wanted, rel=1e-5)
    assert float(model.code_usage) == pytest.approx(wanted["code_usage"])
    assert float(model.code_perplexity) == pytest.approx(wanted["perplexity"])


def test_codes_and_reconstructions():
    model, (images, _) = tiny(ema_half_life=0), make_batches(1)[0]
    vectors = model.encoder(images)
    codes = model.codes_of(images)
    assert codes.shape == (8, *model.code_shape) == (8, 2, 2)
    assert codes.equal(model.quantizer.nearest(vectors))
    wanted = model.decoder(model.quantizer.codebook[codes].movedim(-1, 1)).clamp(-1, 1)
    for found in (model.reconstruct(images), model(images), model.images_of(codes)):
        torch.testing.assert_close(found, wanted)
    assert wanted.shape == images.shape and model.training
    with torch.no_grad():
        model.decoder.layers[-1].weight *= 1000
    assert model.reconstruct(images).abs().max() == 1


def test_predict_reconstructs(make_trainer):
    model, batches = tiny(num_classes=NUM_CLASSES), make_batches(2)
    found = make_trainer().predict(model, loader(batches))
    for images, (batch, _) in zip(found, batches, strict=True):
        assert images.equal(model.reconstruct(batch))


# --- the two parts of a run -------------------------------------------------------------------------------


def test_first_the_autoencoder_is_trained_and_then_the_prior(make_trainer):
    seen = []

    class Watched(VQVAE):
        def on_train_batch_start(self, batch, batch_idx):
            seen.append(self.samples_are_trained)
            self.before = {name: weights(network) for name, network in self.networks(self.trained_networks).items()}
            self.codebook_before = self.quantizer.codebook.clone()

        def on_train_batch_end(self, *_):
            networks = self.networks(self.trained_networks)
            pairs = {name: zip(self.before[name], weights(networks[name]), strict=True) for name in networks}
            changed = {name for name, pair in pairs.items() if not all(a.equal(b) for a, b in pair)}
            autoencoder = {"encoder", "decoder"}
            assert changed == ({"prior"} if seen[-1] else autoencoder)
            assert self.quantizer.codebook.equal(self.codebook_before) == seen[-1]

    model = Watched(SHAPE, **SMALL, prior_start=0.6)
    trainer = make_trainer()
    fit(trainer, model, make_batches(5))
    assert seen == [False] * 3 + [True] * 2
    assert trainer.global_step == 5


@pytest.mark.parametrize(("prior_start", "expected"), [(0.0, [True] * 3), (1.0, [False] * 3)])
def test_either_part_alone(make_trainer, prior_start, expected):
    seen = []

    class Watched(VQVAE):
        def on_train_batch_start(self, batch, batch_idx):
            seen.append(self.samples_are_trained)

    fit(make_trainer(), Watched(SHAPE, **SMALL, prior_start=prior_start), make_batches(3))
    assert seen == expected


@pytest.mark.parametrize("num_classes", [0, NUM_CLASSES])
def test_the_prior_learns_the_codes_by_hand(make_trainer, num_classes):
    trainer = make_trainer(log_every_n_steps=1)
    model = tiny(prior_start=0.0, num_classes=num_classes, prior_lr=0.01)
    images, labels = make_batches(1)[0]
    codes, given = model.codes_of(images).flatten(1), labels if num_classes else None
    logits = model.prior(codes[:, :-1], given).log_softmax(2)
    wanted = -logits.gather(2, codes[:, :, None]).sum((1, 2)).mean()
    wanted.backward()
    expected = [p - 0.01 * p.grad.sign() for p in model.prior.parameters()]  # Adam's first step
    large = [p.grad.abs() > 1e-4 for p in model.prior.parameters()]
    model.zero_grad()
    fit(trainer, model, [(images, labels)])
    assert trainer.callback_metrics["train/code_nll"].item() == pytest.approx(wanted.item(), rel=1e-5)
    for found, right, clear in zip(model.prior.parameters(), expected, large, strict=True):
        torch.testing.assert_close(found[clear], right[clear], rtol=0, atol=1e-4)


def test_validation_measures_each_image_once(make_trainer):
    model = tiny(num_classes=NUM_CLASSES)
    batches = [*make_batches(2, 8), *make_batches(1, 3, seed=1)]
    trainer = make_trainer()
    for stage, run in (("val", trainer.validate), ("test", trainer.test)):
        run(model, loader(batches), verbose=False)
        images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
        mse = (model.reconstruct(images) - images).square().mean().item()
        nll = model.averaged("prior").nll(model.codes_of(images).flatten(1), labels).mean().item()
        logged = [trainer.callback_metrics[f"{stage}/{name}"].item() for name in ("mse", "code_nll")]
        assert logged == pytest.approx([mse, nll], rel=1e-5)


@pytest.mark.parametrize("num_classes", [0, NUM_CLASSES])
def test_low_precision(make_trainer, num_classes):
    model, losses = tiny(num_classes=num_classes), []
    backward = model.manual_backward
    model.manual_backward = lambda loss, **options: (losses.append(loss.detach()), backward(loss, **options))
    fit(make_trainer(plugins=[MixedPrecision("bf16-mixed", "cpu")]), model, make_batches(6))
    assert {loss.dtype for loss in losses} == {torch.float32} and torch.stack(losses).isfinite().all()
    assert {buffer.dtype for buffer in model.quantizer.buffers()} == {torch.float32}
    assert model.quantizer.codebook.isfinite().all()


# --- samples ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [0, NUM_CLASSES])
def test_samples_are_decoded_from_codes_of_the_prior(num_classes):
    model = tiny(num_classes=num_classes, ema_half_life=0).eval()
    numbers = randomness.randn_rows(60, 4, 4, 5, Stream.SAMPLE)
    uniforms = torch.distributions.Normal(0.0, 1.0).cdf(numbers)
    labels = torch.arange(60, 64) % NUM_CLASSES if num_classes else None
    wanted = model.images_of(model.prior.generate(uniforms, labels).view(4, 2, 2))
    torch.testing.assert_close(model.sample(4, seed=5, start=60), wanted)
    torch.testing.assert_close(model.sample(20, seed=5, start=48)[12:16], model.sample(4, seed=5, start=60))
    assert len(model.sample(50, seed=1).flatten(1).unique(dim=0)) > 20


def test_a_conditional_prior_makes_the_images_of_a_class(make_trainer):
    """Images of each class are of one gray level: samples of a class have its level."""
    levels = torch.tensor([-0.8, 0.0, 0.8])
    labels = torch.arange(24) % NUM_CLASSES
    images = levels[labels].view(-1, 1, 1, 1).expand(24, *SHAPE)
    options = {"encoder_lr": 0.01, "decoder_lr": 0.01, "prior_lr": 0.01, "decay": 0.9, "revive_below": 0.1}
    model = tiny(num_classes=NUM_CLASSES, ema_half_life=0, **options)
    fit(make_trainer(max_epochs=300), model, [(images, labels)])
    made = model.sample(30, seed=0).flatten(1)
    torch.testing.assert_close(made.mean(1), levels[torch.arange(30) % 3], atol=0.15, rtol=0)
    assert model.sample(labels=[2, 2, 0], seed=1).mean((1, 2, 3)).sub(levels[[2, 2, 0]]).abs().max() < 0.15


def test_a_checkpoint_holds_the_codebook_and_its_statistics(make_trainer, tmp_path):
    model, trainer = tiny(num_classes=NUM_CLASSES), make_trainer()
    fit(trainer, model, make_batches(4))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    stored = torch.load(tmp_path / "model.ckpt", weights_only=True)["state_dict"]
    assert {f"quantizer.{name}" for name in ("codebook", "counts", "sums")} <= stored.keys()
    again = load(tmp_path / "model.ckpt")
    assert again.quantizer.counts.equal(model.quantizer.counts)
    for ema in (True, False):
        assert again.sample(5, seed=3, ema=ema).equal(model.sample(5, seed=3, ema=ema))


def test_other_networks(make_trainer):
    class Encoder(nn.Conv2d):
        def __init__(self):
            super().__init__(1, 3, 4, stride=4)

    class Decoder(nn.ConvTranspose2d):
        def __init__(self):
            super().__init__(3, 1, 4, stride=4)

    model = tiny(encoder=Encoder(), decoder=Decoder())
    assert model.code_shape == (2, 2)
    fit(make_trainer(), model, make_batches(2))
    assert model.sample(3, seed=0).shape == (3, *SHAPE)
    with pytest.raises(SettingError) as error:
        fit(make_trainer(), tiny(decoder=nn.Conv2d(3, 1, 1)), make_batches(1))
    assert error.value.setting == "image_shape"


# --- the watchdog -----------------------------------------------------------------------------------------


def test_the_watchdog_sees_codes_that_are_not_used(make_trainer):
    class Constant(nn.Module):
        """Maps all images to nearly the same vector."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.full((3,), 1e-9))

        def forward(self, images):
            return images.mean((1, 2, 3))[:, None, None, None] * self.weight.view(1, 3, 1, 1).expand(1, 3, 2, 2)

    watchdog = CollapseWatchdog(every_n_steps=2, num_samples=16, patience=1, min_code_usage=0.2)
    model = tiny(encoder=Constant(), encoder_lr=1e-12, revive_below=0, prior_start=1.0)
    with pytest.warns(UserWarning, match="code_perplexity is 1, below 2") as told:
        make_trainer(callbacks=[watchdog]).fit(model, Toys())
    assert watchdog.values == pytest.approx({"code_usage": 1 / 8, "code_perplexity": 1.0})
    assert sum("code_usage is 0.125, below 0.2" in str(warning.message) for warning in told) == 1
    healthy = CollapseWatchdog(every_n_steps=2, num_samples=16, patience=1, min_code_usage=None)
    model = tiny(prior_start=0.0)
    make_trainer(callbacks=[healthy]).fit(model, Toys())
    assert {"spread", "duplicates"} <= set(healthy.values)


# --- settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("image_shape", (1, 6, 8)),
        ("num_classes", -1),
        ("num_codes", 0),
        ("code_dim", 0),
        ("width", 0),
        ("downsamplings", 0),
        ("commitment", -1.0),
        ("decay", 2.0),
        ("revive_below", -1.0),
        ("prior_start", 1.5),
        ("prior_width", 0),
        ("prior_width", 9),
        ("prior_layers", 0),
        ("prior_heads", 0),
        ("encoder_lr", 0.0),
        ("decoder_lr", -1.0),
        ("prior_lr", 0.0),
        ("betas", (0.5, 1.5)),
        ("weight_decay", -1.0),
    ],
)
def test_settings_out_of_range_are_invalid(setting, value):
    with pytest.raises(SettingError) as error:
        VQVAE(**{"image_shape": SHAPE, **SMALL, setting: value})
    assert error.value.setting == setting


# --- a custom encoder ---------------------------------------------------------------------------------------


def normalized_encoder():
    return nn.Sequential(nn.Conv2d(1, 3, 4, 4), nn.BatchNorm2d(3))


def test_neither_construction_nor_the_prior_changes_the_statistics_of_an_encoder(make_trainer):
    model = tiny(encoder=normalized_encoder(), prior_start=0.5)
    assert not model.encoder[1].num_batches_tracked
    fit(make_trainer(max_steps=4), model, make_batches(4))
    assert model.encoder[1].num_batches_tracked == 2 and model.encoder.training


@pytest.mark.parametrize("encoder", [nn.Flatten(), nn.Conv2d(1, 2, 4, 4), nn.Conv2d(2, 3, 4, 4)])
def test_an_encoder_without_a_grid_of_vectors_is_an_error(encoder):
    with pytest.raises(SettingError, match="encoder"):
        tiny(encoder=encoder)
