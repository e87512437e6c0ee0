"""What a checkpoint says of its model, and the model that is made from it alone."""

import collections
import inspect
import pickle
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import BatchSizeFinder
from pytorch_lightning.loggers import CSVLogger
from torch import nn

import lightning_gans.models
from lightning_gans import (
    ADA,
    DCGAN,
    GAN,
    VAE,
    Checkpoint,
    CollapseWatchdog,
    DataError,
    DigitsDataModule,
    DivergedError,
    GenerativeModule,
    SettingError,
)
from lightning_gans.io.checkpoint_io import AtomicCheckpointIO
from lightning_gans.training import allowed_classes, arguments, finite
from lightning_gans.training import checkpoint_format as checkpoints
from lightning_gans.training.regularizers import R1, LeCam
from tests.toys import LATENT_DIM, MODELS, SHAPE, Toys, loader, make_batches, same, tiny


@pytest.fixture
def save(make_trainer, tmp_path):
    """Train a model for a step and save it."""

    def save(model, name="model.ckpt"):
        trainer = make_trainer()
        trainer.fit(model, loader(make_batches(1)))
        trainer.save_checkpoint(tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def edit(save, tmp_path):
    """Save a tiny GAN and change what its checkpoint says."""

    def edit(change, model=None):
        path = save(model or tiny(GAN))
        checkpoint = torch.load(path, weights_only=True)
        change(checkpoint)
        torch.save(checkpoint, path)
        return path

    return edit


def invalid(call, *words):
    """Check that a call raises a DataError of at most three lines that hold the words."""
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert message.count("\n") < 3
    assert len(message) < 400
    for word in words:
        assert str(word) in message
    return message


class Doubled(GAN):
    """Has a setting of its own."""

    def __init__(self, scale=2.0, **options):
        super().__init__(**options)
        self.scale = scale


class Narrow(GAN):
    """Fixes a setting of its base class."""

    def __init__(self, **options):
        super().__init__(latent_dim=3, ema_half_life=50, **options)


class Generator(nn.Module):
    """A custom generator, with a network in its arguments."""

    def __init__(self, body, scale=1.0):
        super().__init__()
        self.body, self.scale = body, scale

    def forward(self, noise):
        return (self.scale * self.body(noise)).tanh().unflatten(1, SHAPE)


# --- round trips ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [*MODELS, Doubled], ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("load", ["class", "base", "package"])
def test_a_model_is_made_again_from_its_file_alone(save, cls, load):
    model = tiny(cls, ema_half_life=20, lr_schedule="linear")
    path = save(model)
    load = {
        "class": cls.load_from_checkpoint,
        "base": GenerativeModule.load_from_checkpoint,
        "package": lightning_gans.models.load,
    }[load]
    torch.manual_seed(99)
    again = load(path)
    assert type(again) is cls
    assert not again.training
    assert (again.run_seed, again.images_seen) == (model.run_seed, model.images_seen)
    assert again.arguments == model.arguments
    assert again.sample(5, seed=1).equal(model.sample(5, seed=1))
    assert again.sample(5, seed=1, ema=False).equal(model.sample(5, seed=1, ema=False))
    if cls is VAE:
        (images, _), *_ = make_batches(1)
        assert again.reconstruct(images).equal(model.reconstruct(images))


@pytest.mark.parametrize("cls", MODELS, ids=lambda cls: cls.__name__)
def test_a_checkpoint_holds_plain_types(save, cls):
    checkpoint = torch.load(save(tiny(cls)), weights_only=True)
    assert not [key for key in checkpoint if "hyper_parameters" in key or "hparams" in key]
    about = checkpoint["lightning_gans"]
    assert about["version"] == lightning_gans.__version__
    assert about["class"] == f"lightning_gans.{cls.__name__}"
    assert about["missing"] == []
    assert about["images_seen"] == 8


def test_the_stored_arguments_are_the_whole_signature(save):
    model = tiny(Doubled, d_steps=2)
    stored = torch.load(save(model), weights_only=True)["lightning_gans"]["arguments"]
    assert stored == model.arguments
    assert stored["scale"] == 2.0
    assert stored["d_steps"] == 2
    assert stored["generator_dims"] == [6]
    assert stored["betas"] == (0.5, 0.999)
    assert stored["ema_ramp"] == 0.05


def test_arguments_replace_the_stored_ones(save):
    path = save(tiny(GAN))
    again = GAN.load_from_checkpoint(path, generator_lr=0.5, d_steps=4)
    assert (again.generator_lr, again.d_steps) == (0.5, 4)
    with pytest.raises(TypeError, match="d_stepz"):
        GAN.load_from_checkpoint(path, d_stepz=4)
    with pytest.raises(SettingError) as error:
        GAN.load_from_checkpoint(path, d_steps=0)
    assert error.value.setting == "d_steps"


def test_arguments_that_do_not_fit_the_weights_are_invalid(save):
    path = save(tiny(GAN))
    invalid(lambda: GAN.load_from_checkpoint(path, latent_dim=5), path, "generator.hidden.0.weight")
    invalid(lambda: GAN.load_from_checkpoint(path, ema_half_life=0), path, "ema.generator")


def test_numbers_of_numpy_and_paths_are_stored_as_plain_ones(save):
    path = save(tiny(GAN, latent_dim=np.int64(3), generator_lr=np.float64(0.1), lr_end=np.float32(0.5)))
    stored = torch.load(path, weights_only=True)["lightning_gans"]
    assert stored["missing"] == []
    assert [type(stored["arguments"][name]) for name in ("latent_dim", "generator_lr", "lr_end")] == [int, float, float]
    assert GAN.load_from_checkpoint(path).latent_dim == 3


def test_a_setting_that_a_subclass_fixes_is_not_passed_again(save):
    model = tiny_narrow()
    path = save(model)
    assert "latent_dim" not in torch.load(path, weights_only=True)["lightning_gans"]["arguments"]
    again = lightning_gans.models.load(path)
    assert (again.latent_dim, again.ema_half_life) == (3, 50)
    assert again.sample(3, seed=0).equal(model.sample(3, seed=0))


def test_a_default_that_json_has_made_a_list_is_not_passed_either():
    default = inspect.signature(GAN).parameters["betas"].default
    assert isinstance(default, tuple)
    assert arguments.arguments_to_pass(Narrow, {"betas": [*default]}) == {}
    assert arguments.arguments_to_pass(Narrow, {"betas": [0.1, 0.2]}) == {"betas": [0.1, 0.2]}


def tiny_narrow():
    return Narrow(image_shape=SHAPE, generator_dims=[6], discriminator_dims=[6])


def test_resuming_takes_the_seed_and_the_count_along(save, make_trainer):
    model = tiny(GAN)
    path, seed = save(model), model.run_seed
    resumed = tiny(GAN)
    resumed.run_seed = seed + 1
    trainer = make_trainer(max_epochs=2)
    trainer.fit(resumed, loader(make_batches(1)), ckpt_path=path)
    assert (resumed.run_seed, resumed.images_seen, trainer.global_step) == (seed, 16, 2)


def test_objects_are_left_out_of_the_stored_arguments(save):
    model = tiny(GAN, generator_optimizer=partial(torch.optim.SGD, lr=0.1), regularizers=[R1(0.5)])
    path = save(model)
    stored = torch.load(path, weights_only=True)["lightning_gans"]
    assert stored["missing"] == []
    assert not {"generator_optimizer", "regularizers"} & stored["arguments"].keys()
    again = lightning_gans.models.load(path)
    assert again.sample(3, seed=0).equal(model.sample(3, seed=0))


def test_settings_of_the_machine_are_not_stored_and_old_ones_are_ignored(edit):
    path = edit(lambda checkpoint: checkpoint["lightning_gans"]["arguments"].update(compile_mode="default"))
    assert "compile_mode" not in lightning_gans.models.load(path).arguments


def test_the_names_of_version_0_1_are_read(edit):
    def change(checkpoint):
        checkpoint["lightning_gans"]["class"] = "lightning_gans.models.gan.GAN"
        weights = checkpoint["state_dict"]
        for name in [name for name in weights if name.startswith("ema.generator.")]:
            weights[name.replace("ema.generator.", "generator_ema.")] = weights.pop(name)

    model = tiny(GAN)
    path = edit(change, model)
    assert lightning_gans.models.load(path).sample(3, seed=0).equal(model.sample(3, seed=0))
    fresh = tiny(GAN)
    fresh.load_weights(path)
    assert same(fresh.ema["generator"], model.ema["generator"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["generator", "discriminator", "ema.generator"])
def test_weights_that_are_not_finite_are_not_saved_over_those_that_are(make_trainer, tmp_path, name, value):
    model, path = tiny(GAN), tmp_path / "last.ckpt"
    trainer = make_trainer()
    trainer.fit(model, loader(make_batches(1)))
    trainer.save_checkpoint(path)
    before = path.read_bytes()
    wrong, weight = next(model.get_submodule(name).named_parameters())
    with torch.no_grad():
        weight.view(-1)[-1] = value
    with pytest.raises(DivergedError) as error:
        trainer.save_checkpoint(path)
    assert f"{name}.{wrong}" in str(error.value)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]


def test_an_optimizer_whose_state_is_not_finite_is_not_saved(make_trainer, tmp_path):
    """A huge penalty overflows Adam's second moment; the weights, divided by it, do not move."""
    model = tiny(GAN)
    trainer = make_trainer()
    trainer.fit(model, loader(make_batches(1)))
    weight = model.discriminator.get_parameter("output.weight")
    trainer.optimizers[1].state[weight]["exp_avg_sq"].view(-1)[0] = float("inf")
    with pytest.raises(DivergedError, match=r"exp_avg_sq of discriminator\.output\.weight"):
        trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert not list(tmp_path.iterdir())


def test_a_run_that_diverges_without_a_log_or_a_checkpoint_ends_with_an_error(make_trainer):
    with pytest.raises(DivergedError):
        make_trainer(log_every_n_steps=50).fit(tiny(GAN, penalties={"r1": 1e30}), loader(make_batches(2)))


def test_weights_whose_sum_overflows_are_finite():
    model = tiny(GAN)
    with torch.no_grad():
        model.ema["generator"].get_parameter("hidden.0.weight").fill_(3e38)
    finite.check_finite(model)


def test_buffers_may_be_infinite_but_not_nan():
    model = tiny(VAE, prior="mixture", prior_components=2)
    model.mixture.log_weights[0] = -torch.inf
    finite.check_finite(model)
    model.mixture.log_weights[0] = torch.nan
    with pytest.raises(DivergedError, match=r"mixture\.log_weights"):
        finite.check_finite(model)


def test_a_checkpoint_names_its_class(save):
    path = save(tiny(GAN))
    invalid(lambda: DCGAN.load_from_checkpoint(path), path, "holds a GAN, not a DCGAN")


def test_a_class_defined_in_a_function_loads_through_itself(save):
    class Local(GAN):
        """Has no name to be imported by."""

    path = save(tiny(Local))
    assert type(Local.load_from_checkpoint(path)) is Local
    invalid(lambda: lightning_gans.models.load(path), "Local is your own class")


# --- custom networks ---------------------------------------------------------------------------------------


def own_generator(scale=1.0):
    return Generator(nn.Linear(LATENT_DIM, 64), scale)


def test_a_network_given_as_an_instance_has_to_be_given_again(save):
    model = tiny(GAN, generator=own_generator())
    path = save(model)
    assert torch.load(path, weights_only=True)["lightning_gans"]["missing"] == ["generator"]
    invalid(lambda: GAN.load_from_checkpoint(path), path, "generator", "GAN.load_from_checkpoint(path, generator=…)")
    again = GAN.load_from_checkpoint(path, generator=own_generator())
    assert again.sample(3, seed=0).equal(model.sample(3, seed=0))
    assert same(again.generator, model.generator)


def test_a_network_with_a_class_path_is_made_again(save):
    allowed_classes.trust(__name__)
    body = {"class_path": "torch.nn.Linear", "init_args": {"in_features": LATENT_DIM, "out_features": 64}}
    config = {"class_path": f"{__name__}.Generator", "init_args": {"body": body, "scale": 0.5}}
    model = tiny(GAN, generator=own_generator(0.5))
    model.note_arguments(generator=config, latent_dim=99)
    path = save(model)
    assert torch.load(path, weights_only=True)["lightning_gans"]["arguments"]["generator"] == config
    again = lightning_gans.models.load(path)
    assert again.latent_dim == LATENT_DIM
    assert again.generator.scale == 0.5
    assert again.sample(3, seed=0).equal(model.sample(3, seed=0))
    assert again.arguments == model.arguments
    third = lightning_gans.models.load(save(again, "again.ckpt"))
    assert third.generator.scale == 0.5


def test_a_network_that_replaces_a_stored_one_is_not_stored_as_that(save):
    allowed_classes.trust(__name__)
    model = tiny(GAN, generator=own_generator())
    model.note_arguments(generator={"class_path": f"{__name__}.Generator", "init_args": {"body": None}})
    again = GAN.load_from_checkpoint(save(model), generator=own_generator())
    assert "generator" not in again.arguments


@pytest.fixture
def not_imported(tmp_path, monkeypatch):
    """A module on the path that leaves a mark when it is imported."""
    marker = tmp_path / "imported"
    (tmp_path / "my_nets.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass MyG: pass\nclass MyGAN: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield marker
    assert not marker.exists()
    assert "my_nets" not in sys.modules


def test_a_network_that_is_not_imported_stops_before_any_import(edit, not_imported):
    def change(checkpoint):
        checkpoint["lightning_gans"]["arguments"]["generator"] = {"class_path": "my_nets.MyG"}

    path = edit(change)
    invalid(lambda: lightning_gans.models.load(path), "my_nets.MyG is your own class: add `--import my_nets`")
    invalid(lambda: GAN.load_from_checkpoint(path), "my_nets.MyG")


def test_a_model_that_is_not_imported_stops_before_any_import(edit, not_imported):
    path = edit(lambda checkpoint: checkpoint["lightning_gans"].update({"class": "my_nets.MyGAN"}))
    invalid(lambda: lightning_gans.models.load(path), "my_nets.MyGAN is your own class: add `--import my_nets`")


@pytest.mark.parametrize("name", ["subprocess.Popen", "pathlib.Path", "torch.nn.Parameter"])
def test_a_class_that_is_no_network_is_not_made(edit, tmp_path, name):
    config = {"class_path": name, "init_args": {"args": ["touch", str(tmp_path / "run")]}}
    path = edit(lambda checkpoint: checkpoint["lightning_gans"]["arguments"].update(generator=config))
    invalid(lambda: lightning_gans.models.load(path), name, "is not an nn.Module")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["lightning_gans.nothing.GAN", "torch.nn.Nothing", "lightning_gans.__main__.main"])
def test_names_that_do_not_exist_here(edit, name):
    path = edit(lambda checkpoint: checkpoint["lightning_gans"].update({"class": name}))
    invalid(lambda: lightning_gans.models.load(path), f"{name} does not exist in this version")
    assert "lightning_gans.__main__" not in sys.modules


def test_a_class_that_is_no_model_is_not_made(edit):
    path = edit(lambda checkpoint: checkpoint["lightning_gans"].update({"class": "torch.nn.Linear"}))
    invalid(lambda: lightning_gans.models.load(path), "holds a Linear, not a GenerativeModule")


# --- files that are no checkpoints ------------------------------------------------------------------------


class Evil:
    """Pickled code that leaves a mark where it is run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_pickled_code_is_refused_and_not_run(tmp_path, write):
    marker, path = tmp_path / "run", tmp_path / "evil.ckpt"
    write({"state_dict": {}, "lightning_gans": Evil(marker)}, path)
    invalid(lambda: lightning_gans.models.load(path), path)
    assert not marker.exists()


def test_the_message_says_that_the_file_holds_code(tmp_path):
    torch.save({"state_dict": {}, "lightning_gans": Evil(tmp_path / "run")}, tmp_path / "evil.ckpt")
    invalid(lambda: lightning_gans.models.load(tmp_path / "evil.ckpt"), "pickled code")


@pytest.mark.parametrize("load", ["load", "load_weights"])
@pytest.mark.parametrize("kind", ["missing", "folder", "text", "empty", "truncated", "tensor", "no weights", "foreign"])
def test_files_that_are_no_checkpoint_of_ours(save, tmp_path, kind, load):
    path = save(tiny(GAN))
    match kind:
        case "missing":
            path.unlink()
        case "folder":
            path.unlink()
            path.mkdir()
        case "text":
            path.write_text("model:\n  class_path: GAN\n")
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        case "tensor":
            torch.save(torch.zeros(3), path)
        case "no weights":
            torch.save({"lightning_gans": {}}, path)
        case "foreign":
            torch.save({"state_dict": {}}, path)
    call = lightning_gans.models.load if load == "load" else tiny(GAN).load_weights
    invalid(lambda: call(path), path)


def test_resuming_a_foreign_checkpoint_is_refused(edit, make_trainer):
    path = edit(lambda checkpoint: checkpoint.pop("lightning_gans"))
    trainer = make_trainer(max_epochs=2)
    invalid(lambda: trainer.fit(tiny(GAN), loader(make_batches(1)), ckpt_path=path), "not written by a model")


@pytest.mark.parametrize("version", ["../../elsewhere", "a/b", "a\\b", "..", "/tmp", "", "a\0b"])
def test_a_checkpoint_does_not_choose_the_folder_of_a_logger(edit, version):
    states = [{"class": "TensorBoardLogger", "version": version}]
    path = edit(lambda checkpoint: checkpoint["lightning_gans"].update(loggers=states))
    with pytest.raises(DataError) as error:
        checkpoints.read(path)
    assert error.value.setting == "loggers"


@pytest.mark.parametrize("version", [None, 3, "version_0", "3f9a-1b.c", "run:1"])
def test_a_loggers_own_version_is_kept(edit, version):
    states = [{"class": "TensorBoardLogger", "version": version}]
    path = edit(lambda checkpoint: checkpoint["lightning_gans"].update(loggers=states))
    assert checkpoints.read(path)["lightning_gans"]["loggers"] == states


def at(*keys, value):
    """Return a change that replaces an entry of a checkpoint."""

    def change(checkpoint):
        for key in keys[:-1]:
            checkpoint = checkpoint[key]
        checkpoint[keys[-1]] = value

    return change


ABOUT, FIT = "lightning_gans", ("loops", "fit_loop")
DAMAGE = [
    at("state_dict", value=[1, 2]),
    at("state_dict", "generator.output.weight", value="text"),
    at("state_dict", 3, value=torch.zeros(1)),
    at(7, value=8),
    at("global_step", value="many"),
    at("callbacks", value=[1]),
    at(ABOUT, value=[1]),
    at(ABOUT, "class", value=None),
    at(ABOUT, "class", value=""),
    at(ABOUT, "arguments", value=[1]),
    at(ABOUT, "arguments", 5, value=5),
    at(ABOUT, "arguments", "image_shape", value="abc"),
    at(ABOUT, "arguments", "generator_dims", value=[10**12, 10**12]),
    at(ABOUT, "arguments", "generator", value={"class_path": "torch.nn.Linear", "init_args": [1]}),
    at(ABOUT, "arguments", "generator", value={"class_path": "torch.nn.Linear", "init_args": {"in_features": "x"}}),
    at(ABOUT, "arguments", "generator", value={"class_path": 3}),
    at(ABOUT, "missing", value=[[]]),
    at(ABOUT, "run_seed", value=None),
    at(ABOUT, "run_seed", value=-1),
    at(ABOUT, "images_seen", value=-100),
    at(ABOUT, "loggers", value={"class": "CSVLogger"}),
    at(ABOUT, "loggers", value=[{"class": ["CSVLogger"]}]),
    at(ABOUT, "scales", value=[{}, {"low": -1e308, "high": 1e308}]),
    at(ABOUT, "scales", value=[{}, {"low": 0, "high": 10**400}]),
    at("state_dict", "generator.output.bias", value=torch.full((64,), torch.nan)),
]
OF_THE_RUN = [
    at("loops", value=3),
    at(*FIT, value=3),
    at(*FIT, value={}),
    at(*FIT, "epoch_progress", value=[]),
    at(*FIT, "epoch_loop.batch_progress", "current", value={"ready": "text"}),
    at("optimizer_states", value="text"),
    at("optimizer_states", value=[]),
    at("optimizer_states", 0, value={}),
    at("optimizer_states", 0, "param_groups", value=[]),
    at("optimizer_states", 0, "state", value=[1]),
    at("optimizer_states", 0, "state", 0, value={}),
    at("optimizer_states", 0, "state", 0, "exp_avg", value=torch.zeros(3)),
    at("optimizer_states", 0, "state", 0, "exp_avg_sq", value="text"),
    at("optimizer_states", 0, "param_groups", 0, "lr", value="text"),
    at("optimizer_states", 0, "param_groups", 0, "betas", value=3),
    at("lr_schedulers", value=["text"]),
    at("state_dict", "generator.output.bias", value=torch.full((64,), torch.nan)),
    at("callbacks", value=None),
]


@pytest.mark.parametrize("change", DAMAGE)
def test_a_damaged_checkpoint_is_one_error(edit, change):
    path = edit(change)
    with pytest.raises((DataError, SettingError)) as error:
        lightning_gans.models.load(path)
    assert len(str(error.value).splitlines()) <= 3
    with pytest.raises((DataError, SettingError)):
        tiny(GAN).load_weights(path)
        lightning_gans.models.load(path)  # the weights alone may be right


@pytest.mark.parametrize("change", [*DAMAGE[:5], *OF_THE_RUN])
def test_a_damaged_checkpoint_is_not_resumed(edit, make_trainer, change):
    trainer = make_trainer(max_epochs=2, plugins=[AtomicCheckpointIO()])
    with pytest.raises(DataError) as error:
        trainer.fit(tiny(GAN), loader(make_batches(1)), ckpt_path=edit(change))
    assert len(str(error.value).splitlines()) <= 3


def test_a_checkpoint_without_the_states_of_callbacks_is_not_resumed(edit, make_trainer):
    with pytest.raises(DataError, match="weights only"):
        make_trainer(max_epochs=2).fit(
            tiny(GAN), loader(make_batches(1)), ckpt_path=edit(lambda checkpoint: checkpoint.pop("callbacks"))
        )


@pytest.mark.parametrize(
    ("part", "state"),
    [
        *((part, state) for part in (CollapseWatchdog, Checkpoint, DigitsDataModule) for state in (3, {"a": 1})),
        (CollapseWatchdog, {**CollapseWatchdog().state_dict(), "real": "zz"}),
        (CollapseWatchdog, {**CollapseWatchdog().state_dict(), "rollbacks": "x"}),
        (DigitsDataModule, {"seed": None}),
    ],
)
def test_a_damaged_state_of_a_callback_or_of_the_data_is_an_error(part, state):
    with pytest.raises(DataError, match="may be damaged"):
        part().load_state_dict(state)


COUNTS = torch.zeros(3)
STATES = [
    *(("augment", {"p": p, "counts": COUNTS}) for p in ("x", torch.nan, 7.0, None, torch.ones(2))),
    *(("augment", state) for state in ({}, [1], {"p": 0.5}, {"p": 0.5, "counts": torch.zeros(4)})),
    *(("lecam", state) for state in ("x", torch.zeros(5))),
]


@pytest.mark.parametrize(("part", "state"), STATES)
def test_a_damaged_state_of_a_part_is_an_error(part, state):
    model = SimpleNamespace(augment=ADA(["cutout"]), regularizers=[LeCam(0.1)])
    with pytest.raises(DataError):
        checkpoints.restore_states(model, {"states": {part: {"discriminator": state}}})


def test_a_state_of_a_part_is_restored():
    model = SimpleNamespace(augment=ADA(["cutout"]), regularizers=[LeCam(0.1)])
    states = {
        "augment": {"discriminator": {"p": 0.5, "counts": COUNTS}},
        "lecam": {"discriminator": torch.ones(2, 3)},
    }
    checkpoints.restore_states(model, {"states": states})
    assert model.augment.probability() == 0.5 and model.regularizers[0].state["discriminator"].equal(torch.ones(2, 3))


class Watched(GAN):
    """Notes the files of Lightning's tuner in each step."""

    folder, seen = Path(), []

    def training_step(self, batch, batch_idx):
        self.seen.extend(self.folder.rglob(".*.ckpt"))
        super().training_step(batch, batch_idx)


def test_the_batch_size_finder_leaves_no_file_even_if_it_is_killed(make_trainer, tmp_path, monkeypatch):
    monkeypatch.setattr(Watched, "folder", tmp_path)

    def trained(batch_size, *callbacks):
        torch.manual_seed(0)
        model, data = tiny(Watched), Toys(batch_size=batch_size)
        model.run_seed = 5
        trainer = make_trainer(max_epochs=-1, max_steps=4, plugins=[AtomicCheckpointIO()], callbacks=list(callbacks))
        trainer.fit(model, data)
        return data.batch_size, model

    found, model = trained(2, BatchSizeFinder(init_val=2, max_trials=2, steps_per_trial=2))
    assert found == 4 and not Watched.seen
    assert same(model, trained(4)[1])  # it starts from the weights of before the trials


class Shapes(collections.UserList):
    """A sequence that is not a list, like the ListConfig of Hydra."""


class Mixed(GAN):
    """Takes anything."""

    def __init__(self, extra=None, anything=None, **options):
        super().__init__(**options)
        self.extra = extra


def test_any_sequence_and_mapping_is_stored_in_plain_types(save):
    sizes = Shapes([Shapes([1]), collections.UserDict({"a": range(3), 2: np.float32(0.5)}), np.str_("text")])
    model = Mixed(sizes, image_shape=Shapes(SHAPE), latent_dim=LATENT_DIM, penalties=collections.UserDict(r1=1.0))
    again = Mixed.load_from_checkpoint(save(model))
    assert again.arguments["extra"] == [[1], {"a": [0, 1, 2], "2": 0.5}, "text"]
    assert again.arguments["image_shape"] == list(SHAPE) and again.arguments["penalties"] == {"r1": 1.0}
    assert again.sample(2, seed=0).equal(model.eval().sample(2, seed=0))


@pytest.mark.parametrize("value", [torch.ones(2), {1, 2}, [nn.Linear(1, 1)], len, np.ones(2), object(), b"a"])
def test_what_cannot_be_stored_has_to_be_given_again(save, value):
    path = save(Mixed(value, image_shape=SHAPE, latent_dim=LATENT_DIM, regularizers=[R1(1.0)]))
    invalid(lambda: Mixed.load_from_checkpoint(path), path, "extra")
    assert Mixed.load_from_checkpoint(path, extra=value).extra is value


# --- the interface of Lightning -------------------------------------------------------------------------------


def test_weights_that_do_not_fit_may_be_left_out(edit):
    def change(checkpoint):
        weights = checkpoint["state_dict"]
        weights["unknown"] = weights.pop("discriminator.output.weight")

    path = edit(change)
    with pytest.raises(DataError):
        GAN.load_from_checkpoint(path)
    model = GAN.load_from_checkpoint(path, strict=False, weights_only=False)
    assert model.generator.output.weight.equal(torch.load(path)["state_dict"]["generator.output.weight"])


def test_arguments_may_come_from_the_hparams_of_a_logger(make_trainer, save, tmp_path):
    make_trainer(logger=CSVLogger(tmp_path, version=0)).fit(tiny(GAN, d_steps=2), loader(make_batches(2)))
    hparams = tmp_path / "lightning_logs" / "version_0" / "hparams.yaml"
    assert GAN.load_from_checkpoint(save(tiny(GAN)), None, hparams).d_steps == 2
    hparams.write_text("[1, 2]")
    invalid(lambda: GAN.load_from_checkpoint(save(tiny(GAN)), hparams_file=hparams), hparams)


# --- weights alone ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", MODELS, ids=lambda cls: cls.__name__)
def test_weights_are_copied_and_nothing_else(save, cls):
    model = tiny(cls)
    path = save(model)
    fresh = tiny(cls, lr_schedule="cosine")
    seed = fresh.run_seed
    fresh.load_weights(path)
    assert fresh.sample(4, seed=0).equal(model.sample(4, seed=0))
    assert fresh.sample(4, seed=0, ema=False).equal(model.sample(4, seed=0, ema=False))
    assert (fresh.run_seed, fresh.images_seen, fresh.lr_schedule) == (seed, 0, "cosine")


def test_averages_that_the_checkpoint_lacks_start_from_its_weights(save):
    path = save(tiny(GAN, ema_half_life=0))
    model = tiny(GAN)
    model.load_weights(path)
    assert same(model.generator, model.ema["generator"])
    assert model.sample(4, seed=0).equal(GAN.load_from_checkpoint(path).sample(4, seed=0))


def test_averages_that_the_model_lacks_are_left_out(save):
    trained = tiny(GAN)
    path = save(trained)
    model = tiny(GAN, ema_half_life=0)
    model.load_weights(path)
    assert same(model.generator, trained.generator)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"latent_dim": 5}, ["generator.hidden.0.weight", "[6, 4] in the checkpoint", "[6, 5] in the model"]),
        ({"generator_dims": [6, 6]}, ["lacks the weight", "generator.hidden.3"]),
    ],
)
def test_weights_that_do_not_fit_are_refused(save, options, words):
    path = save(tiny(GAN))
    model = tiny(GAN, **options)
    before = [weight.clone() for weight in model.parameters()]
    invalid(lambda: model.load_weights(path), path, *words)
    assert same(before, model)


def test_weights_of_another_model_are_refused(save):
    path = save(tiny(VAE))
    invalid(lambda: tiny(GAN).load_weights(path), path, "does not fit the model")


def test_weights_that_fit_are_taken_and_the_others_are_named(save):
    trained, model = tiny(GAN), tiny(GAN, latent_dim=5, discriminator_dims=[6, 4])
    path = save(trained)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    transfer = model.load_weights(path, strict=False)
    theirs, after = trained.state_dict(), model.state_dict()
    assert transfer.kept == {
        "generator.hidden.0.weight": "[6, 4] in the checkpoint, [6, 5] in the model",
        "discriminator.output.weight": "[1, 6] in the checkpoint, [1, 4] in the model",
        "discriminator.hidden.2.weight": "not in the checkpoint",
        "discriminator.hidden.2.bias": "not in the checkpoint",
    }
    assert sorted([*transfer.taken, *transfer.kept]) == sorted(name for name in after if not name.startswith("ema."))
    for name in transfer.taken:
        assert after[name].equal(theirs[name]), name
        assert name not in before or not name.endswith("weight") or not before[name].equal(theirs[name])
    for name in transfer.kept:
        assert after[name].equal(before[name]), name
    # The averages are those of the checkpoint where they fit, and start from the model's weights elsewhere.
    assert after["ema.generator.output.weight"].equal(theirs["ema.generator.output.weight"])
    assert after["ema.generator.hidden.0.weight"].equal(after["generator.hidden.0.weight"])
    text = str(transfer).splitlines()
    assert text[0].startswith(f"{len(transfer.taken)} of {len(transfer.taken) + 4} weights") and len(text) == 5


def test_a_report_of_many_weights_is_short(save):
    transfer = tiny(GAN).load_weights(save(tiny(GAN, generator_dims=[6] * 9)), strict=False)
    lines = str(transfer).splitlines()
    assert len(lines) == 14 and lines[-1].strip() == f"and {len(transfer.kept) + len(transfer.unused) - 12} more"
    assert len(transfer.unused) > 12
    assert str(tiny(GAN).load_weights(save(tiny(GAN)), strict=False)).count("\n") == 0


def test_weights_none_of_which_fit_are_an_error(save):
    path = save(tiny(VAE))
    invalid(lambda: tiny(DCGAN).load_weights(path, strict=False), path, "no weight fits")
