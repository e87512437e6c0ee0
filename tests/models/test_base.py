import pytest
import torch
from pytorch_lightning import Callback
from torch import nn

from lightning_gans import DCGAN, GAN, VAE, ConditionalGAN, DataError, RecurrentGAN, SettingError, load, randomness
from lightning_gans.randomness import Stream
from lightning_gans.training.sampling import SAMPLE_BLOCK
from tests.toys import (
    LATENT_DIM,
    MODELS,
    NUM_CLASSES,
    SHAPE,
    loader,
    lone_step,
    make_batches,
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
            if not name.startswith("ema."):
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
        model.ema[name].load_state_dict(getattr(model, name).state_dict())
    assert model.sample(3, seed=0).equal(raw)


def test_counts_of_samples():
    assert tiny(GAN).sample().shape == (1, *SHAPE)
    assert tiny(GAN).sample(0).shape == (0, *SHAPE)
    assert tiny(ConditionalGAN).sample(labels=[]).shape == (0, *SHAPE)
    assert tiny(ConditionalGAN).sample(labels=[1, 0]).shape == (2, *SHAPE)


@pytest.mark.parametrize(
    ("cls", "arguments", "setting", "value"),
    [
        (GAN, {"num_samples": -1}, "num_samples", -1),
        (GAN, {"num_samples": 1, "start": -2}, "start", -2),
        (GAN, {"labels": [1]}, "labels", [1]),
        (ConditionalGAN, {"labels": [3]}, "labels", 3),
        (ConditionalGAN, {"labels": [0, -1]}, "labels", -1),
        (ConditionalGAN, {"num_samples": 3, "labels": [0, 1]}, "labels", [2]),
        (ConditionalGAN, {"labels": [[0, 1]]}, "labels", [1, 2]),
        (ConditionalGAN, {"labels": ["a"]}, "labels", ["a"]),
        (GAN, {"num_samples": 1, "seed": 1.5}, "seed", 1.5),
        (GAN, {"num_samples": 1, "seed": "a"}, "seed", "a"),
    ],
)
def test_samples_that_cannot_be_are_invalid(cls, arguments, setting, value):
    with pytest.raises(SettingError) as error:
        tiny(cls).sample(**arguments)
    assert (error.value.setting, error.value.value) == (setting, value)


# --- noise ------------------------------------------------------------------------------------------------


def test_noise_is_a_function_of_the_seed_the_step_the_stream_and_the_update():
    def noise(run_seed=1, global_step=2, stream=Stream.NOISE, number=0):
        step = lone_step(run_seed=run_seed, global_step=global_step)
        step.update_index = number
        return step.noise(5, stream=stream)

    first = noise()
    assert first.equal(randomness.randn((5, LATENT_DIM), 1, Stream.NOISE, 2, 0))
    for other in (noise(run_seed=2), noise(global_step=3), noise(stream=Stream.POSTERIOR), noise(number=1)):
        assert not (other == first).any()


@pytest.mark.parametrize(("world_size", "accumulate", "rows"), [(2, 1, 6), (4, 1, 3), (1, 3, 4), (2, 2, 3)])
def test_processes_and_accumulated_batches_draw_the_rows_of_one_large_batch(world_size, accumulate, rows):
    parts = []
    for position in range(accumulate):
        for rank in range(world_size):
            step = lone_step(world_size=world_size, rank=rank, accumulate=accumulate)
            step.micro_batch_index = position
            parts.append((step.noise(rows), step.uniform(rows, 3, Stream.AUGMENT)))
    noise, uniform = zip(*parts, strict=True)
    assert torch.cat(noise).equal(lone_step().noise(12))
    assert torch.cat(uniform).equal(lone_step().uniform(12, 3, Stream.AUGMENT))


def test_the_runs_seed_is_that_of_seed_everything(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "17")
    assert tiny(GAN).run_seed == 17
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert 0 <= tiny(GAN).run_seed < 2**32


# --- the moving average -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "images_seen", "batches"),
    [
        ({"ema_half_life": 64, "ema_ramp": NEVER_RAMPED}, 1, (8, 24, 16, 16)),
        ({"ema_half_life": 10_000, "ema_ramp": 0.05}, 100, (5,)),  # at most 5 % of the images seen
    ],
)
def test_after_one_half_life_half_of_the_start_is_left(options, images_seen, batches):
    model = tiny(GAN, **options)
    start, networks = weights(model.ema["generator"]), {"generator": model.generator}
    with torch.no_grad():
        for weight in model.generator.parameters():
            weight += 1
    for images in batches:
        model.ema.average(networks, images, images_seen)
    for average, old, new in zip(model.ema.parameters(), start, model.generator.parameters(), strict=True):
        torch.testing.assert_close(average, (old + new) / 2)


@pytest.mark.parametrize("cls", MODELS)
def test_training_moves_the_averages_once_a_step(make_trainer, cls):
    model = tiny(cls, ema_half_life=8, ema_ramp=NEVER_RAMPED)
    starts = {name: weights(getattr(model, name)) for name in model.averaged_networks}
    make_trainer().fit(model, loader(make_batches(1, 8)))
    for name, start in starts.items():
        network, ema = getattr(model, name), model.ema[name]
        assert not same(start, network)
        for average, old, new in zip(ema.parameters(), start, network.parameters(), strict=True):
            torch.testing.assert_close(average, (old + new) / 2)
        for copied, buffer in zip(ema.buffers(), network.buffers(), strict=True):
            assert copied.equal(buffer)


@pytest.mark.parametrize(
    ("cls", "options", "batches_of_a_step"),
    [(GAN, {}, 1), (GAN, {"d_steps": 2}, 2), (VAE, {"encoder_steps": 2, "accumulate_batches": 2}, 4)],
)
def test_a_step_waits_for_all_its_batches_and_an_epoch_drops_the_rest(make_trainer, cls, options, batches_of_a_step):
    model, trainer = tiny(cls, **options), make_trainer(max_epochs=2)
    trainer.fit(model, loader(make_batches(5, 6)))
    steps = 2 * (5 // batches_of_a_step)
    assert trainer.global_step == steps
    assert model.images_seen == steps * batches_of_a_step * 6


@pytest.mark.parametrize("options", [{"max_epochs": 2}, {"fast_dev_run": True}])
def test_an_epoch_with_fewer_batches_than_a_step_repeats_them(make_trainer, options):
    model, trainer = tiny(GAN, d_steps=3, lr_schedule="linear"), make_trainer(**options)
    trainer.fit(model, loader(make_batches(2, 6)))
    steps = trainer.max_epochs
    assert trainer.global_step == steps
    assert model.images_seen == steps * 3 * 6
    assert model.progress() == 1


def test_averages_stay_in_evaluation_mode_without_gradients():
    model = tiny(VAE).train()
    assert model.encoder.training
    assert set(model.ema) == {"encoder", "decoder"}
    assert not any(module.training for module in model.ema.modules())
    assert not any(weight.requires_grad for weight in model.ema.parameters())


def test_a_half_life_of_zero_switches_the_average_off(make_trainer):
    model = tiny(GAN, ema_half_life=0)
    make_trainer().fit(model, loader(make_batches(1)))
    assert not any("ema" in name for name in model.state_dict())
    assert model.sample(2, seed=0).equal(model.sample(2, seed=0, ema=False))


# --- schedules --------------------------------------------------------------------------------------------


class Rates(Callback):
    """Records the learning rates at the start of each step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx % 2 == 0:
            self.note(trainer)

    def note(self, trainer):
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
    trainer.fit(model, loader(make_batches(8 if "max_steps" in run else 4)))
    rates.note(trainer)
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
    assert model.generator.training and model.discriminator.training and not model.ema["generator"].training
    assert not same(before, list(model.generator.buffers()))


def test_a_schedule_needs_an_end(make_trainer):
    with pytest.raises(SettingError) as error:
        make_trainer(max_epochs=-1).fit(tiny(VAE, lr_schedule="cosine"), loader(make_batches(1)))
    assert error.value.setting == "trainer.max_epochs"


# --- settings and data that do not fit --------------------------------------------------------------------


def test_what_is_no_network_is_invalid():
    for name in ("generator", "discriminator"):
        with pytest.raises(SettingError, match=r"it must be an nn\.Module"):
            tiny(GAN, **{name: "text"})


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
def test_settings_out_of_range_are_invalid(cls, setting, value):
    with pytest.raises(SettingError) as error:
        tiny(cls, **{setting: value})
    assert (error.value.setting, error.value.value) == (setting, value)


@pytest.mark.parametrize("cls", MODELS)
def test_images_of_another_shape_are_invalid(make_trainer, cls):
    with pytest.raises(SettingError) as error:
        make_trainer().fit(tiny(cls), loader(make_batches(1, shape=(3, 8, 8))))
    assert (error.value.setting, error.value.value, error.value.allowed) == ("image_shape", SHAPE, (3, 8, 8))


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ((8, 8), r"channel dimension is missing: give \(N, channels, height, width\), as images\.unsqueeze\(1\)"),
        ((16, 16), r"channel dimension is missing"),
        ((8, 8, 1), r"look like \(N, height, width, channels\): .*images\.permute\(0, 3, 1, 2\)"),
        ((32, 32, 3), r"look like \(N, height, width, channels\)"),
        ((64,), r"give \(N, channels, height, width\), or \(N, channels, steps\)"),
        ((2, 8), r"set --model\.image_shape '\[2, 8\]', or use other data"),
    ],
)
def test_the_remedy_fits_the_shape(make_trainer, shape, told):
    with pytest.raises(SettingError, match=told):
        make_trainer().fit(tiny(GAN), loader(make_batches(1, shape=shape)))


@pytest.mark.parametrize(
    "change",
    [lambda images: (images + 1) * 127.5, lambda images: images * 1.1, lambda images: images * float("nan")],
)
@pytest.mark.parametrize("cls", [GAN, VAE])
def test_images_beyond_their_range_are_invalid(make_trainer, cls, change):
    model, batches = tiny(cls), [(change(images), labels) for images, labels in make_batches(1)]
    for _ in range(2):  # and again, as the same model may get other data
        with pytest.raises(DataError) as error:
            make_trainer().fit(model, loader(batches))
        assert (error.value.setting, error.value.allowed) == ("batch", "[-1, 1]")


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (lambda images: (images + 1) * 127.5, "images / 127.5 - 1"),
        (lambda images: (images / 2 + 0.2) / 0.25, "a mean of 0.5 and a standard deviation of 0.5"),
    ],
)
def test_the_message_says_how_to_scale_images(change, remedy):
    with pytest.raises(DataError, match=remedy):
        tiny(GAN).unpack(change(make_batches(1)[0][0]))


@pytest.mark.parametrize("cls", [GAN, VAE])
def test_images_from_0_to_1_come_with_one_warning_a_stage(make_trainer, cls):
    batches = [((images + 1) / 2, labels) for images, labels in make_batches(3)]
    with pytest.warns(UserWarning, match=r"images \* 2 - 1") as caught:
        make_trainer().fit(tiny(cls), loader(batches))
    assert len([w for w in caught if "images * 2 - 1" in str(w.message)]) == 1


def test_images_from_minus_1_to_1_come_without_a_warning(make_trainer, recwarn):
    make_trainer().fit(tiny(GAN), loader(make_batches(2)))
    make_trainer().fit(tiny(GAN), loader([torch.zeros(8, *SHAPE)]))  # one gray says nothing
    assert not [w for w in recwarn if "nothing below 0" in str(w.message)]


@pytest.mark.parametrize("cls", MODELS)
def test_a_model_is_called_like_any_module(cls, tmp_path):
    model = tiny(cls).eval()
    labels = torch.arange(2) if model.num_classes else None
    inputs = torch.rand(2, *SHAPE) * 2 - 1 if cls is VAE else torch.randn(2, LATENT_DIM)
    inputs = (inputs,) if labels is None else (inputs, labels)
    expected = model.reconstruct(*inputs) if cls is VAE else model.decode(*inputs)
    torch.testing.assert_close(model(*inputs), expected)
    model.example_input_array = inputs
    torch.testing.assert_close(model.to_torchscript(method="trace")(*inputs), expected)
    torch.testing.assert_close(torch.export.export(model, inputs).module()(*inputs), expected)


@pytest.mark.slow
@pytest.mark.parametrize("cls", MODELS)
def test_a_model_is_exported_to_onnx_by_lightning(cls, tmp_path):
    pytest.importorskip("onnxscript")
    model = tiny(cls)
    inputs = torch.zeros(2, *SHAPE) if cls is VAE else torch.randn(2, LATENT_DIM)
    inputs = (inputs, torch.arange(2)) if model.num_classes else (inputs,)
    model.to_onnx(tmp_path / "model.onnx", inputs)
    assert (tmp_path / "model.onnx").stat().st_size > 0


def test_the_example_input_is_summarized(make_trainer):
    model = tiny(GAN)
    model.example_input_array = torch.zeros(2, LATENT_DIM)
    make_trainer(enable_model_summary=True).fit(model, loader(make_batches(1)))


@pytest.mark.parametrize("cls", MODELS)
def test_a_second_loader_has_its_own_values(make_trainer, cls):
    model, trainer = tiny(cls), make_trainer()
    loaders = [loader(make_batches(2, seed=seed)) for seed in (1, 2)]
    alone = [make_trainer().validate(model, one, verbose=False)[0] for one in loaders]
    trainer.fit(model, loader(make_batches(1)), loaders)
    both = make_trainer().test(model, loaders, verbose=False)
    trained = [make_trainer().test(model, one, verbose=False)[0] for one in loaders]
    if cls is VAE:
        assert alone[0]["val/elbo"] != alone[1]["val/elbo"]
        for index, values in enumerate(trained):
            assert both[index] == pytest.approx({f"{k}/dataloader_idx_{index}": v for k, v in values.items()})
    if model.num_classes or cls is VAE:
        pictures = make_trainer().predict(model, loaders)
        assert [len(pictures), pictures[1][0].shape] == [2, (8, *SHAPE)]


@pytest.mark.parametrize(
    ("theirs", "value", "ours"),
    [("gradient_clip_val", 1.0, "gradient_clip_val"), ("accumulate_grad_batches", 2, "accumulate_batches")],
)
def test_settings_of_the_trainer_that_are_the_models_name_it(make_trainer, theirs, value, ours):
    with pytest.raises(SettingError, match=f"the model's {ours}") as error:
        make_trainer(**{theirs: value}).fit(tiny(GAN), loader(make_batches(1)))
    assert (error.value.setting, error.value.value) == (f"trainer.{theirs}", value)
    make_trainer(**{theirs: value}).validate(tiny(GAN), loader(make_batches(1)), verbose=False)


def test_a_fit_does_not_warn_of_averages_but_of_layers_that_stay_in_evaluation(make_trainer, recwarn):
    model = tiny(GAN).eval()
    make_trainer().fit(model, loader(make_batches(1)))
    assert not [w for w in recwarn if "in eval mode" in str(w.message)]
    model.discriminator.hidden[0].eval()
    with pytest.warns(UserWarning, match="in eval mode"):
        make_trainer().fit(model, loader(make_batches(1)))


def test_sequences_beyond_their_range_are_invalid(make_trainer):
    batches = [(sequences * 5, labels) for sequences, labels in make_batches(1, shape=(2, 6))]
    with pytest.raises(DataError) as error:
        make_trainer().fit(RecurrentGAN((2, 6), LATENT_DIM, hidden_dim=5), loader(batches))
    assert (error.value.setting, error.value.allowed) == ("batch", "[-1, 1]")


def test_the_range_is_checked_once_a_stage_and_may_round(make_trainer):
    first, (images, labels) = make_batches(2)
    first = (first[0] / first[0].abs().max() * 1.009, first[1])
    model = tiny(VAE)
    make_trainer().fit(model, loader([first, (images * 2, labels)]), loader([first]))
    with pytest.raises(DataError):  # other data
        make_trainer().validate(model, loader([(images * 2, labels)]), verbose=False)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda images, labels: {"image": images}, "dict"),
        (lambda images, labels: [(images, labels)] * 2, "list"),
        (lambda images, labels: (), "tuple"),
        (lambda images, labels: (images, {"label": labels}), "tuple"),
        (lambda images, labels: (images, labels[:5]), [5]),
    ],
)
def test_batches_of_another_kind_are_invalid(change, found):
    model = tiny(ConditionalGAN)
    (batch,) = make_batches(1)
    with pytest.raises(DataError) as error:
        model.images_and_labels(change(*batch))
    assert (error.value.setting, error.value.value) == ("batch", found)


def test_a_model_without_labels_ignores_the_rest_of_a_batch():
    (images, _), model = make_batches(1)[0], tiny(GAN)
    for beside in ((), ({"name": "a"},), (torch.eye(8), 5)):
        found, labels = model.images_and_labels((images, *beside))
        assert found.equal(images) and labels is None


@pytest.mark.parametrize("earlier", [0, 1])
@pytest.mark.parametrize("wrong", [-1, NUM_CLASSES])
def test_labels_out_of_range_are_found_in_every_batch(make_trainer, earlier, wrong):
    *first, (images, labels) = make_batches(earlier + 1)
    with pytest.raises(SettingError) as error:
        make_trainer().fit(
            tiny(ConditionalGAN), loader([*first, (images, labels.index_fill(0, torch.tensor(3), wrong))])
        )
    assert error.value.setting == "num_classes"
    assert f"the label {wrong}" in str(error.value)


@pytest.mark.parametrize(
    ("cls", "name", "options"),
    [(GAN, "generator", {}), (VAE, "decoder", {}), (VAE, "decoder", {"likelihood": "gaussian"})],
)
def test_networks_that_make_images_of_another_shape_are_invalid(make_trainer, cls, name, options):
    small = nn.Sequential(nn.Linear(LATENT_DIM, 8), nn.Unflatten(1, (1, 1, 8)))  # which would broadcast
    model = tiny(cls, **{name: small}, **options)
    for run in (lambda: model.sample(2, seed=0), lambda: make_trainer().fit(model, loader(make_batches(1)))):
        with pytest.raises(SettingError) as error:
            run()
        assert (error.value.setting, error.value.value, error.value.allowed) == ("image_shape", SHAPE, (1, 1, 8))


def test_missing_labels_are_invalid(make_trainer):
    images = [images for images, _ in make_batches(1)]
    with pytest.raises(SettingError) as error:
        make_trainer().fit(tiny(ConditionalGAN), loader(images))
    assert (error.value.setting, error.value.allowed) == ("num_classes", 0)
    make_trainer().fit(tiny(GAN), loader(images))


def test_images_of_whole_numbers_are_invalid(make_trainer):
    batches = [(((images + 1) * 127.5).byte(), labels) for images, labels in make_batches(1)]
    with pytest.raises(SettingError) as error:
        make_trainer().fit(tiny(GAN), loader(batches))
    assert (error.value.setting, error.value.value) == ("batch", torch.uint8)


def test_labels_of_any_integers_are_labels(make_trainer):
    models = []
    for dtype in (torch.int64, torch.int32, torch.uint8, torch.uint16):
        torch.manual_seed(0)
        models.append(tiny(ConditionalGAN))
        make_trainer().fit(models[-1], loader([(images, labels.to(dtype)) for images, labels in make_batches(1)]))
    assert all(same(models[0], model) for model in models[1:])


def test_batchnorm_over_vectors_needs_more_than_one_image(make_trainer):
    with pytest.raises(SettingError) as error:
        make_trainer().fit(tiny(GAN), loader(make_batches(1, size=1)))
    assert error.value.setting == "batch_size"
    make_trainer().fit(tiny(DCGAN), loader(make_batches(1, size=1)))


def test_an_unconditional_gan_cannot_predict(make_trainer):
    with pytest.raises(SettingError) as error:
        make_trainer().predict(tiny(GAN), loader(make_batches(1)))
    assert error.value.setting == "num_classes"


def test_every_process_takes_the_first_ones_seed(make_trainer):
    model = tiny(GAN)
    trainer = make_trainer()
    trainer.strategy.broadcast = lambda value, src=0: 99
    trainer.fit(model, loader(make_batches(1)))
    assert model.run_seed == 99


@pytest.mark.parametrize("cls", [GAN, VAE])
def test_pairs_of_images_are_an_error(make_trainer, cls):
    images = make_batches(1)[0][0]
    with pytest.raises(DataError) as error:
        make_trainer().fit(tiny(cls), loader([(-images, images)]))
    assert (error.value.setting, error.value.allowed) == ("batch", "images, or images and labels")
