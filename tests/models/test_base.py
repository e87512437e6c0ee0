import pytest
import torch
from pytorch_lightning import Callback
from torch import nn

from lightning_gans import DCGAN, GAN, VAE, ConditionalGAN, DataError, RecurrentGAN, SettingError, load, randomness
from lightning_gans.training.sampling import SAMPLE_BLOCK
from tests.toys import (
    LATENT_DIM,
    MODELS,
    NUM_CLASSES,
    SHAPE,
    loader,
    make_batches,
    placed,
    same,
    tiny,
    weights,
)

NEVER_RAMPED = 1e9

# --- sampling ---------------------------------------------------------------------------------------------


@pytest.fixture(params=MODELS, ids=lambda cls: cls.__name__)
def model(request):
    """A model whose averages differ from its weights, and whose BatchNorm has seen something."""
    model = tiny(request.param)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "_ema." not in name:
                weight += 0.1 * torch.randn_like(weight)
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return model


def test_samples_are_images_in_range(model):
    samples = model.sample(5, seed=0)
    assert samples.shape == (5, *SHAPE)
    assert samples.dtype == torch.float32
    assert samples.abs().max() <= 1
    assert not samples[0].equal(samples[1])
    assert not samples.requires_grad


def test_a_picture_depends_on_the_seed_and_its_index_alone(model):
    many = model.sample(103, seed=7)
    for start, count in ((0, 3), (47, 7), (50, 50), (101, 2), (99, 1)):
        assert model.sample(count, seed=7, start=start).equal(many[start : start + count])
    assert len(many.unique(dim=0)) == 103
    assert not model.sample(3, seed=8).equal(many[:3])


def test_networks_always_see_whole_blocks(model):
    """What else is in a batch changes the last bits of a picture on some devices."""
    sizes = []
    network = model.averaged("decoder" if isinstance(model, VAE) else "generator")
    network.register_forward_hook(lambda module, inputs, images: sizes.append(len(images)))
    model.sample(3, seed=7, start=48)
    assert sizes == [SAMPLE_BLOCK, SAMPLE_BLOCK]


def test_a_picture_depends_on_its_own_label_alone():
    model = tiny(ConditionalGAN)
    labels = torch.arange(60) % NUM_CLASSES
    many = model.sample(labels=labels, seed=7)
    others = model.sample(labels=(labels + 1) % NUM_CLASSES, seed=7)
    mixed = torch.where(torch.arange(60) % 2 == 0, labels, (labels + 1) % NUM_CLASSES)
    found = model.sample(labels=mixed, seed=7)
    assert found[0::2].equal(many[0::2])
    assert found[1::2].equal(others[1::2])
    assert not many[0].equal(others[0])
    assert model.sample(labels=labels[48:55], seed=7, start=48).equal(many[48:55])


def test_labels_come_in_turn_by_default():
    model = tiny(ConditionalGAN)
    assert model.sample(7, seed=1).equal(model.sample(labels=[0, 1, 2, 0, 1, 2, 0], seed=1))
    assert model.sample(3, seed=1, start=1).equal(model.sample(labels=[1, 2, 0], seed=1, start=1))


def test_sampling_leaves_modes_statistics_and_the_global_stream_alone(model):
    model.train()
    frozen = next(module for module in model.children())
    frozen.eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    stream = torch.get_rng_state()
    model.sample(3, seed=0)
    model.sample(3, seed=0, ema=False)
    assert [module.training for module in model.modules()] == modes
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())
    assert torch.get_rng_state().equal(stream)


def test_samples_do_not_depend_on_the_mode(model):
    in_training = model.train().sample(3, seed=0, ema=False)
    assert model.eval().sample(3, seed=0, ema=False).equal(in_training)


def test_without_a_seed_the_global_stream_chooses(model):
    torch.manual_seed(3)
    first, second = model.sample(2), model.sample(2)
    torch.manual_seed(3)
    assert model.sample(2).equal(first)
    assert not first.equal(second)


def test_the_average_is_used_unless_switched_off(model):
    raw = model.sample(3, seed=0, ema=False)
    assert not model.sample(3, seed=0).equal(raw)
    for name in model.averaged_networks:
        getattr(model, f"{name}_ema").load_state_dict(getattr(model, name).state_dict())
    assert model.sample(3, seed=0).equal(raw)


def test_counts_of_samples():
    assert tiny(GAN).sample().shape == (1, *SHAPE)
    assert tiny(GAN).sample(0).shape == (0, *SHAPE)
    assert tiny(ConditionalGAN).sample(labels=[]).shape == (0, *SHAPE)
    assert tiny(ConditionalGAN).sample(labels=[1, 0]).shape == (2, *SHAPE)


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (GAN, {"num_samples": -1}, "num_samples is -1"),
        (GAN, {"num_samples": 1, "start": -2}, "start is -2"),
        (GAN, {"labels": [1]}, "labels were given"),
        (ConditionalGAN, {"labels": [3]}, "labels contains 3: the model knows 0 to 2"),
        (ConditionalGAN, {"labels": [0, -1]}, "labels contains -1"),
        (ConditionalGAN, {"num_samples": 3, "labels": [0, 1]}, "one label for each of 3"),
        (ConditionalGAN, {"labels": [[0, 1]]}, r"shape \[1, 2\]"),
    ],
)
def test_samples_that_cannot_be_are_refused(cls, arguments, message):
    with pytest.raises(SettingError, match=message):
        tiny(cls).sample(**arguments)


# --- noise ------------------------------------------------------------------------------------------------


def test_noise_is_a_function_of_seed_step_and_part():
    def noise(seed=1, step=2, part=0):
        model = placed(tiny(GAN), step=step)
        model.run_seed = seed
        return model.noise(5, part)

    first = noise()
    assert first.shape == (5, LATENT_DIM)
    assert noise().equal(first)
    for other in (noise(seed=2), noise(step=3), noise(part=1)):
        assert not (other == first).any()


@pytest.mark.parametrize(("world_size", "rows"), [(2, 6), (4, 3), (3, 4)])
def test_the_processes_draw_together_what_one_draws(world_size, rows):
    model = tiny(GAN)
    parts = [placed(model, world_size=world_size, rank=rank).noise(rows, 0) for rank in range(world_size)]
    assert torch.cat(parts).equal(placed(model).noise(12, 0))


def test_the_runs_seed_is_that_of_seed_everything(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "17")
    assert tiny(GAN).run_seed == 17
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert 0 <= tiny(GAN).run_seed < 2**32


# --- the moving average -----------------------------------------------------------------------------------


def test_after_one_half_life_half_of_the_start_is_left():
    model = tiny(GAN, ema_half_life=64, ema_ramp=NEVER_RAMPED)
    start = weights(model.generator_ema)
    with torch.no_grad():
        for weight in model.generator.parameters():
            weight += 1
    model.images_seen = 1
    for images in (8, 24, 16, 16):
        model.update_ema(images)
    for average, old, new in zip(model.generator_ema.parameters(), start, model.generator.parameters(), strict=True):
        torch.testing.assert_close(average, (old + new) / 2)


def test_the_ramp_shortens_the_half_life_to_a_share_of_the_images_seen():
    model = tiny(GAN, ema_half_life=10_000, ema_ramp=0.05)
    model.images_seen = 100
    start = weights(model.generator_ema)
    with torch.no_grad():
        for weight in model.generator.parameters():
            weight += 1
    model.update_ema(5)
    for average, old, new in zip(model.generator_ema.parameters(), start, model.generator.parameters(), strict=True):
        torch.testing.assert_close(average, (old + new) / 2)


@pytest.mark.parametrize("cls", MODELS)
def test_training_moves_the_averages_once_a_step(make_trainer, cls):
    model = tiny(cls, ema_half_life=8, ema_ramp=NEVER_RAMPED)
    starts = {name: weights(getattr(model, name)) for name in model.averaged_networks}
    make_trainer().fit(model, loader(make_batches(1, 8)))
    for name, start in starts.items():
        network, ema = getattr(model, name), getattr(model, f"{name}_ema")
        assert not same(start, network)
        for average, old, new in zip(ema.parameters(), start, network.parameters(), strict=True):
            torch.testing.assert_close(average, (old + new) / 2)
        for copied, buffer in zip(ema.buffers(), network.buffers(), strict=True):
            assert copied.equal(buffer)


@pytest.mark.parametrize(("cls", "options"), [(GAN, {"d_steps": 2}), (VAE, {"encoder_steps": 2}), (GAN, {})])
def test_images_are_counted(make_trainer, cls, options):
    model = tiny(cls, **options)
    make_trainer().fit(model, loader(make_batches(3, 6)))
    assert model.images_seen == 18


def test_averages_stay_in_evaluation_mode_without_gradients():
    model = tiny(VAE).train()
    assert model.encoder.training
    for ema in (model.encoder_ema, model.decoder_ema):
        assert not any(module.training for module in ema.modules())
        assert not any(weight.requires_grad for weight in ema.parameters())


def test_a_half_life_of_zero_switches_the_average_off(make_trainer):
    model = tiny(GAN, ema_half_life=0)
    make_trainer().fit(model, loader(make_batches(1)))
    assert not any("_ema" in name for name in model.state_dict())
    assert model.sample(2, seed=0).equal(model.sample(2, seed=0, ema=False))


# --- schedules --------------------------------------------------------------------------------------------


class Rates(Callback):
    """Notes the learning rates at the start of each step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, *args):
        self.seen.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("constant", [1, 1, 1, 1, 1]),
        ("linear", [1, 0.8, 0.6, 0.4, 0.2]),
        ("cosine", [1, 0.882843, 0.6, 0.317157, 0.2]),
    ],
)
@pytest.mark.parametrize("run", [{"max_steps": 4}, {"max_epochs": 2}])
def test_learning_rates_go_down_over_the_whole_run(make_trainer, schedule, shares, run):
    model, rates = (
        tiny(GAN, d_steps=2, generator_lr=0.1, discriminator_lr=0.4, lr_schedule=schedule, lr_end=0.2),
        Rates(),
    )
    trainer = make_trainer(callbacks=[rates], **run)
    trainer.fit(model, loader(make_batches(4 if "max_steps" in run else 2, 8)))
    rates.on_train_batch_start(trainer)
    assert [rate for pair in rates.seen for rate in pair] == pytest.approx(
        [lr * share for share in shares for lr in (0.1, 0.4)], rel=1e-5
    )


def test_a_model_that_was_loaded_trains_again(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.fit(tiny(DCGAN), loader(make_batches(1)))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    model = load(tmp_path / "model.ckpt")
    assert not model.generator.training
    before = [buffer.clone() for buffer in model.generator.buffers()]
    make_trainer().fit(model, loader(make_batches(2)))
    assert model.generator.training and model.discriminator.training and not model.generator_ema.training
    assert not same(before, list(model.generator.buffers()))


def test_a_schedule_needs_an_end(make_trainer):
    with pytest.raises(SettingError, match=r"set --trainer\.max_epochs, --trainer\.max_steps or"):
        make_trainer(max_epochs=-1).fit(tiny(VAE, lr_schedule="cosine"), loader(make_batches(1)))


# --- settings and data that do not fit --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("latent_dim", 0),
        ("image_shape", (28, 28)),
        ("image_shape", (1, 0, 8)),
        ("ema_half_life", -1),
        ("ema_ramp", -0.1),
        ("lr_schedule", "step"),
        ("lr_end", 1.5),
    ],
)
@pytest.mark.parametrize("cls", [GAN, VAE])
def test_settings_out_of_range_are_refused(cls, setting, value):
    with pytest.raises(SettingError, match=setting):
        tiny(cls, **{setting: value})


@pytest.mark.parametrize("cls", MODELS)
def test_images_of_another_shape_are_refused(make_trainer, cls):
    with pytest.raises(SettingError, match=r"image_shape is \[1, 8, 8\], but the data's images are \[3, 8, 8\]"):
        make_trainer().fit(tiny(cls), loader(make_batches(1, shape=(3, 8, 8))))


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ((8, 8), r"channel dimension is missing: give \(N, channels, height, width\), as images\.unsqueeze\(1\)"),
        ((16, 16), r"channel dimension is missing"),
        ((8, 8, 1), r"look like \(N, height, width, channels\): .*images\.permute\(0, 3, 1, 2\)"),
        ((32, 32, 3), r"look like \(N, height, width, channels\)"),
        ((64,), r"give \(N, channels, height, width\), or \(N, channels, steps\)"),
        ((2, 8), r"set --model\.image_shape '\[2, 8\]', or other data"),
    ],
)
def test_the_remedy_fits_the_shape(make_trainer, shape, told):
    with pytest.raises(SettingError, match=told):
        make_trainer().fit(tiny(GAN), loader(make_batches(1, shape=shape)))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda images: (images + 1) * 127.5, r"go from \d.*\d to 2\d\d.*: scale them to -1 to 1"),
        (lambda images: images * 1.1, r"go from -1\..* to 1\..*: scale them"),
        (lambda images: images * float("nan"), "are not all finite numbers"),
    ],
)
@pytest.mark.parametrize("cls", [GAN, VAE])
def test_images_beyond_their_range_are_refused(make_trainer, cls, change, told):
    model, batches = tiny(cls), [(change(images), labels) for images, labels in make_batches(1)]
    for _ in range(2):  # and again, as the same model may be given other data
        with pytest.raises(DataError, match=told):
            make_trainer().fit(model, loader(batches))


def test_sequences_beyond_their_range_are_refused(make_trainer):
    batches = [(sequences * 5, labels) for sequences, labels in make_batches(1, shape=(2, 6))]
    with pytest.raises(DataError, match="scale them to -1 to 1"):
        make_trainer().fit(RecurrentGAN((2, 6), LATENT_DIM, hidden_dim=5), loader(batches))


def test_images_are_looked_at_once_a_stage_and_may_round(make_trainer):
    first, (images, labels) = make_batches(2)
    first = (first[0] / first[0].abs().max() * 1.009, first[1])
    model = tiny(VAE)
    make_trainer().fit(model, loader([first, (images * 2, labels)]), loader([first]))
    with pytest.raises(DataError, match="scale them"):  # other data
        make_trainer().validate(model, loader([(images * 2, labels)]), verbose=False)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda images, labels: {"image": images}, "a batch is a dict: it must be a tensor of images, or a tuple"),
        (lambda images, labels: [(images, labels)] * 2, "a batch is a list of tuple, tuple: "),
        (lambda images, labels: (), "a batch is a tuple: "),
        (lambda images, labels: (images, {"label": labels}), "a batch is a tuple of Tensor, dict: "),
        (
            lambda images, labels: (images, torch.eye(NUM_CLASSES)[labels]),
            r"labels have the shape \[8, 3\] for 8 images: give one whole number for each, as labels\.argmax\(1\)",
        ),
        (lambda images, labels: (images, labels[:5]), r"labels have the shape \[5\] for 8 images"),
    ],
)
def test_batches_of_another_kind_are_refused(change, told):
    model = tiny(ConditionalGAN)
    (batch,) = make_batches(1)
    with pytest.raises(DataError, match=told):
        model.images_and_labels(change(*batch))


def test_what_stands_beside_the_images_is_nothing_to_a_model_without_labels():
    (images, _), model = make_batches(1)[0], tiny(GAN)
    for beside in ((), ({"name": "a"},), (torch.eye(8), 5)):
        found, labels = model.images_and_labels((images, *beside))
        assert found.equal(images) and labels is None


def test_labels_out_of_range_are_found_in_later_batches(make_trainer):
    first, (images, labels) = make_batches(2)
    with pytest.raises(SettingError, match="the data has the label 5: labels are 0 to 2"):
        make_trainer().fit(tiny(ConditionalGAN), loader([first, (images, labels.clamp(max=1) * 5)]))


@pytest.mark.parametrize(
    ("cls", "name", "options"),
    [(GAN, "generator", {}), (VAE, "decoder", {}), (VAE, "decoder", {"likelihood": "gaussian"})],
)
def test_networks_that_make_images_of_another_shape_are_refused(make_trainer, cls, name, options):
    small = nn.Sequential(nn.Linear(LATENT_DIM, 8), nn.Unflatten(1, (1, 1, 8)))  # which would broadcast
    model = tiny(cls, **{name: small}, **options)
    told = r"image_shape is \[1, 8, 8\], but the network makes images \[1, 1, 8\]"
    with pytest.raises(SettingError, match=told):
        model.sample(2, seed=0)
    with pytest.raises(SettingError, match=told):
        make_trainer().fit(model, loader(make_batches(1)))


def test_missing_labels_are_refused(make_trainer):
    images = [images for images, _ in make_batches(1)]
    with pytest.raises(SettingError, match="num_classes is 3, but the data has no labels"):
        make_trainer().fit(tiny(ConditionalGAN), loader(images))
    make_trainer().fit(tiny(GAN), loader(images))


def test_bytes_are_refused_as_images(make_trainer):
    batches = [(((images + 1) * 127.5).byte(), labels) for images, labels in make_batches(1)]
    with pytest.raises(SettingError, match=r"images are torch.uint8: they must be floats in \[-1, 1\]"):
        make_trainer().fit(tiny(GAN), loader(batches))


@pytest.mark.parametrize(("shift", "wrong"), [(1, NUM_CLASSES), (-1, -1)])
def test_labels_out_of_range_are_refused(make_trainer, shift, wrong):
    batches = [(images, torch.arange(len(images)) % NUM_CLASSES + shift) for images, _ in make_batches(1)]
    with pytest.raises(SettingError, match=f"num_classes is {NUM_CLASSES}, but the data has the label {wrong}"):
        make_trainer().fit(tiny(ConditionalGAN), loader(batches))


def test_labels_of_any_integers_are_labels(make_trainer):
    models = []
    for dtype in (torch.int64, torch.int32, torch.uint8, torch.uint16):
        torch.manual_seed(0)
        models.append(tiny(ConditionalGAN))
        make_trainer().fit(models[-1], loader([(images, labels.to(dtype)) for images, labels in make_batches(1)]))
    assert all(same(models[0], model) for model in models[1:])


def test_a_batch_of_one_image_is_refused_where_batchnorm_has_no_places_to_average_over(make_trainer):
    with pytest.raises(SettingError, match="batch of 1 image"):
        make_trainer().fit(tiny(GAN), loader(make_batches(1, size=1)))
    make_trainer().fit(tiny(DCGAN), loader(make_batches(1, size=1)))


def test_prediction_has_no_meaning_for_an_unconditional_gan(make_trainer):
    with pytest.raises(SettingError, match="lightning-gans sample"):
        make_trainer().predict(tiny(GAN), loader(make_batches(1)))


def test_every_process_takes_the_first_ones_seed(make_trainer):
    model = tiny(GAN)
    trainer = make_trainer()
    trainer.strategy.broadcast = lambda value, src=0: 99
    trainer.fit(model, loader(make_batches(1)))
    assert model.run_seed == 99
    assert placed(model).noise(2, 0).equal(randomness.randn((2, LATENT_DIM), 99, randomness.Stream.NOISE, 0, 0))
