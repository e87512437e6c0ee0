"""What a resumed run takes from its checkpoint, and what it rejects."""

import os
import sys

import pytest
import torch
from jsonargparse import Namespace
from torch import nn

from lightning_gans import DCGAN, GAN, VAE, DataError, GenerativeModule, SettingError
from lightning_gans.cli import resume
from lightning_gans.cli.parsing import TrainingParser
from lightning_gans.cli.run_folder import RunFolder
from lightning_gans.training import allowed_classes, arguments
from lightning_gans.training import checkpoint_format as checkpoints
from tests.toys import LATENT_DIM, SHAPE, Toys, same, tiny

OWN = f"{__name__}.Doubled"
NETWORK = f"{__name__}.Scaled"


class Doubled(GAN):
    """Has a setting of its own."""

    def __init__(self, scale=2.0, **options):
        super().__init__(**options)
        self.scale = scale


class Scaled(nn.Module):
    """A custom generator with a network in its arguments."""

    def __init__(self, body: nn.Module, scale: float = 1.0):
        super().__init__()
        self.body, self.scale = body, scale

    def forward(self, noise):
        return (self.scale * self.body(noise)).tanh().unflatten(1, SHAPE)


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# --- the run's folder -------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """The folder of a run that has a checkpoint."""
    folder = tmp_path / "runs" / "quickstart" / "version_0"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").touch()
    (folder / "checkpoints" / "last.ckpt").touch()
    return folder


def test_a_run_is_found_by_its_folder_and_by_a_checkpoint_in_it(run):
    for name in (run, f"{run}/", run / "checkpoints" / "best.ckpt"):
        assert RunFolder.find(str(name)).path == run


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
@pytest.mark.parametrize("name", ["hparams.yaml", "metrics.csv", ".lock"])
def test_a_pipe_in_the_folder_is_refused_and_not_waited_for(run, name):
    os.mkfifo(run / name)
    with pytest.raises(DataError) as error:
        resume.words_to_fit([str(run)])
    assert error.value.setting == str(run / name)


@pytest.mark.parametrize("name", ["metrics.csv", "run.json"])
def test_a_folder_in_place_of_a_file_is_refused(run, name):
    (run / name).mkdir()
    with pytest.raises(DataError) as error:
        resume.words_to_fit([str(run)])
    assert error.value.setting == str(run / name)


def test_a_folder_of_runs_names_those_in_it(run):
    with pytest.raises(DataError) as error:
        RunFolder.find(str(run.parent))
    assert error.value.setting == str(run.parent) and f"Runs in it: {run}." in str(error.value)
    (run / "config.yaml").unlink()
    with pytest.raises(DataError) as error:
        RunFolder.find(str(run))
    assert error.value.setting == str(run)


@pytest.mark.parametrize("name", ["nowhere", "nowhere/checkpoints/last.ckpt"])
def test_a_missing_folder_is_named(name):
    with pytest.raises(DataError) as error:
        RunFolder.find(name)
    assert error.value.setting == "nowhere"


def test_the_words_of_the_fit_that_resumes(run, capsys):
    words, folder = resume.words_to_fit([str(run), "--trainer.max_epochs", "9"])
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    assert words == ["fit", "-c", str(run / "config.yaml"), "--trainer.max_epochs", "9", "--ckpt_path", checkpoint]
    assert folder.path == run
    assert capsys.readouterr().out == ""


def test_a_run_without_a_checkpoint_starts_from_the_beginning_and_says_so(run, capsys):
    (run / "checkpoints" / "last.ckpt").unlink()
    words, folder = resume.words_to_fit([str(run)])
    assert (words, folder.path) == (["fit", "-c", str(run / "config.yaml")], run)
    assert "no checkpoint yet" in capsys.readouterr().out


def test_a_run_whose_last_checkpoint_is_gone_is_not_overwritten(run):
    last, best = (run / "checkpoints" / name for name in ("last.ckpt", "best.ckpt"))
    last.rename(best)
    with pytest.raises(DataError) as error:
        resume.words_to_fit([str(run)])
    assert error.value.setting == str(last) and f"resume {best}`" in str(error.value)
    words, _ = resume.words_to_fit([str(run), "--ckpt_path", str(best)])
    assert words == ["fit", "-c", str(run / "config.yaml"), "--ckpt_path", str(best)]


@pytest.mark.parametrize("trace", ["run.json", "metrics/step=0000100.json"])
def test_a_run_whose_checkpoints_are_gone_is_not_overwritten(run, trace):
    (run / "checkpoints" / "last.ckpt").unlink()
    (run / "metrics").mkdir()
    (run / trace).touch()
    with pytest.raises(DataError) as error:
        resume.words_to_fit([str(run)])
    assert "has trained before" in str(error.value)


@pytest.mark.parametrize("content", ["a: [1", "- 1", "\xff"])
def test_a_damaged_configuration_is_named(run, content):
    (run / "config.yaml").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError) as error:
        resume.words_to_fit([str(run)])
    assert error.value.setting == str(run / "config.yaml")


@pytest.mark.parametrize("words", [[], ["--trainer.max_epochs", "9"]])
def test_resume_needs_a_run(words):
    with pytest.raises(SettingError) as error:
        resume.words_to_fit(words)
    assert error.value.setting == "RUN"


def test_a_checkpoint_belongs_to_the_run_in_whose_folder_it_is(run):
    for name in ("other.ckpt", "last.ckpt"):
        assert RunFolder.of_checkpoint(str(run / "checkpoints" / name)).path == run
    assert RunFolder.of_checkpoint(run / "last.ckpt") is None
    (run / "config.yaml").unlink()
    assert RunFolder.of_checkpoint(run / "checkpoints" / "last.ckpt") is None


# --- the model --------------------------------------------------------------------------------------------

TINY = ["--model.image_shape", "[1,8,8]", "--model.latent_dim", str(LATENT_DIM)]
TINY_GAN = ["--model", "GAN", *TINY, "--model.generator_dims", "[6]", "--model.discriminator_dims", "[6]"]


@pytest.fixture
def save(make_trainer, tmp_path):
    """Train a model for a step and save it."""

    def save(model):
        trainer = make_trainer(max_steps=1, limit_val_batches=0)
        trainer.fit(model, Toys())
        trainer.save_checkpoint(tmp_path / "saved.ckpt")
        return tmp_path / "saved.ckpt"

    return save


@pytest.fixture
def adopt():
    """Make the model of a recipe and a command line, with the checkpoint's settings."""
    parser = TrainingParser(exit_on_error=False)
    parser.add_lightning_class_args(GenerativeModule, "model", subclass_mode=True)

    def adopt(checkpoint, recipe, words=()):
        config = parser.parse_args([*recipe, *words])
        resume.adopt_model(config, checkpoint, ["fit", *words])
        return parser.instantiate_classes(config).model

    return adopt


def holds(model, checkpoint):
    """Whether a model is that of a checkpoint: class, settings, and shapes of the weights."""
    stored = torch.load(checkpoint, weights_only=True)
    model.load_state_dict(stored["state_dict"])
    about, ours = stored["lightning_gans"], model.arguments
    for name, value in about["arguments"].items():
        assert ours[name] == value or list(ours[name]) == list(value), name
    return arguments.public_name(type(model)) == about["class"]


def test_settings_come_from_the_checkpoint_where_the_recipe_has_others(save, adopt):
    checkpoint = save(tiny(GAN, generator_dims=[5, 6], loss="minimax", generator_lr=0.5, ema_half_life=7))
    model = adopt(checkpoint, [*TINY_GAN, "--model.discriminator_dims", "[9]", "--model.betas", "[0.1,0.2]"])
    assert holds(model, checkpoint)
    assert (model.loss, model.generator_lr, model.betas, model.ema_half_life) == ("minimax", 0.5, (0.5, 0.999), 7)


@pytest.mark.parametrize("recipe", ["DCGAN", "VAE"])
def test_the_class_comes_from_the_checkpoint_where_the_recipe_has_another(save, adopt, recipe):
    checkpoint = save(tiny(GAN))
    with pytest.warns(UserWarning, match=f"The recipe has a {recipe}, but .* holds a GAN"):
        assert holds(adopt(checkpoint, ["--model", recipe]), checkpoint)


def test_a_default_of_a_base_class_comes_from_the_checkpoint_too(save, adopt):
    checkpoint = save(tiny(Doubled))
    model = adopt(checkpoint, ["--model", OWN, *TINY_GAN[2:], "--model.scale", "3.0", "--model.d_steps", "4"])
    assert (model.scale, model.d_steps) == (2.0, 1)


def spellings(name, value):
    """All ways in which a command line can set a setting of the model."""
    return [
        ["--model", f"{{class_path: GAN, init_args: {{{name}: {value}}}}}"],
        [f"--model={{class_path: GAN, init_args: {{{name}: {value}}}}}"],
        ["--model.init_args", f"{{{name}: {value}}}"],
        [f"--model.{name}", value],
        [f"--model.{name}={value}"],
        [f"--model.init_args.{name}", value],
        [f"--model.init_args.{name}={value}"],
    ]


@pytest.mark.parametrize("words", spellings("latent_dim", "4") + spellings("betas", "[0.5,0.999]"))
def test_a_setting_that_agrees_is_accepted(save, adopt, words):
    checkpoint = save(tiny(GAN))
    assert holds(adopt(checkpoint, TINY_GAN, words), checkpoint)


@pytest.mark.parametrize("words", spellings("latent_dim", "5"))
def test_a_conflicting_setting_is_an_error_with_both_values(save, adopt, words):
    with pytest.raises(SettingError) as error:
        adopt(save(tiny(GAN)), TINY_GAN, words)
    assert (error.value.setting, error.value.value, error.value.allowed) == ("model.latent_dim", 5, 4)


def test_a_conflicting_list_is_an_error(save, adopt):
    with pytest.raises(SettingError) as error:
        adopt(save(tiny(GAN)), TINY_GAN, ["--model.betas", "[0.5,0.9]"])
    assert (list(error.value.value), list(error.value.allowed)) == ([0.5, 0.9], [0.5, 0.999])


@pytest.mark.parametrize("words", [["--model", "DCGAN"], ["--model=DCGAN"], ["--model.class_path", "DCGAN"]])
def test_another_class_is_an_error_with_both_names(save, adopt, words):
    with pytest.raises(SettingError) as error:
        adopt(save(tiny(GAN)), TINY, words)
    assert (error.value.setting, error.value.value, error.value.allowed) == ("model", "DCGAN", "GAN")


def test_the_same_class_is_accepted(save, adopt):
    checkpoint = save(tiny(DCGAN))
    assert holds(adopt(checkpoint, TINY, ["--model", "DCGAN"]), checkpoint)


def test_networks_that_are_named_by_their_classes_come_from_the_checkpoint(save, adopt):
    allowed_classes.trust(__name__)
    body = {"class_path": "torch.nn.Linear", "init_args": {"in_features": LATENT_DIM, "out_features": 64}}
    named = {"class_path": NETWORK, "init_args": {"body": body, "scale": 0.5}}
    model = tiny(GAN, generator=Scaled(nn.Linear(LATENT_DIM, 64), 0.5))
    model.note_arguments(generator=named)
    checkpoint = save(model)
    other = [
        "--model.generator",
        NETWORK,
        "--model.generator.scale",
        "3.0",
        "--model.generator.body",
        "torch.nn.Identity",
    ]
    for recipe in (TINY_GAN, [*TINY_GAN, *other]):
        again = adopt(checkpoint, recipe)
        again.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
        assert again.generator.scale == 0.5 and same(again.generator, model.generator)


def test_penalties_come_from_the_checkpoint(save, adopt):
    checkpoint = save(tiny(GAN, penalties={"r1": 1.0, "r2": 0.5}))
    for recipe in (TINY_GAN, [*TINY_GAN, "--model.penalties", "{dragan: 1}"]):
        assert adopt(checkpoint, recipe).arguments["penalties"] == {"r1": 1.0, "r2": 0.5}


def test_a_conflicting_network_is_an_error(save, adopt):
    allowed_classes.trust(__name__)
    model = tiny(GAN, generator=nn.Sequential(nn.Linear(LATENT_DIM, 64), nn.Unflatten(1, SHAPE)))
    model.note_arguments(generator={"class_path": NETWORK, "init_args": {"body": None, "scale": 0.5}})
    with pytest.raises(SettingError) as error:
        adopt(
            save(model),
            [*TINY_GAN, "--model.generator", NETWORK, "--model.generator.body", "torch.nn.Identity"],
            ["--model.generator.scale", "3.0"],
        )
    assert error.value.setting == "model.generator"
    assert (error.value.value["init_args"]["scale"], error.value.allowed["init_args"]["scale"]) == (3.0, 0.5)


def test_a_custom_class_is_resumed_if_the_recipe_names_it(save, adopt):
    checkpoint = save(tiny(Doubled, scale=5.0))
    model = adopt(checkpoint, ["--model", OWN, *TINY_GAN[2:]])
    assert holds(model, checkpoint)
    assert (type(model), model.scale) == (Doubled, 5.0)


@pytest.mark.parametrize("place", ["class", "generator"])
def test_a_class_that_is_not_imported_is_an_error_and_stays_unimported(save, adopt, tmp_path, monkeypatch, place):
    marker = tmp_path / "imported"
    (tmp_path / "own_models.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Own: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    checkpoint = save(tiny(GAN))
    content = torch.load(checkpoint, weights_only=True)
    if place == "class":
        content["lightning_gans"]["class"] = "own_models.Own"
    else:
        content["lightning_gans"]["arguments"]["generator"] = {"class_path": "own_models.Own", "init_args": {}}
    torch.save(content, checkpoint)
    with pytest.raises(DataError):
        adopt(checkpoint, TINY_GAN)
    assert not marker.exists() and "own_models" not in sys.modules


@pytest.mark.parametrize("content", [b"junk", None])
def test_a_file_that_is_not_a_checkpoint_is_an_error(adopt, tmp_path, content):
    path = tmp_path / "saved.ckpt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=str(path)):
        adopt(path, TINY_GAN)


# --- the loggers ------------------------------------------------------------------------------------------


def logger(kind, **init_args):
    return Namespace(class_path=f"pytorch_lightning.loggers.{kind}", init_args=Namespace(**init_args))


@pytest.fixture
def logged(save):
    """What the checkpoint of a run with a logger of each kind says."""
    checkpoint = save(tiny(VAE))
    content = torch.load(checkpoint, weights_only=True)
    content["lightning_gans"]["loggers"] = [
        {"class": "RunLogger", "state": {"rows": 3}},
        {"class": "WandbLogger", "version": "abc123"},
        {"class": "TensorBoardLogger", "version": 4},
        {"class": "MLFlowLogger", "version": "run7"},
        {"class": "CometLogger", "version": "key8"},
    ]
    torch.save(content, checkpoint)
    return checkpoints.description(checkpoints.read(checkpoint))


def test_loggers_continue_their_runs(logged):
    loggers = [logger("TensorBoardLogger", version=None), logger("WandbLogger", id=None), logger("CSVLogger")]
    resume.continue_loggers(Namespace(trainer=Namespace(logger=loggers)), logged)
    assert loggers[0].init_args.version == 4
    assert loggers[1].init_args.id == "abc123"
    assert loggers[2].init_args == Namespace()
    others = [logger("MLFlowLogger", run_id=None), logger("CometLogger", experiment_key=None)]
    resume.continue_loggers(Namespace(trainer=Namespace(logger=others)), logged)
    assert (others[0].init_args.run_id, others[1].init_args.experiment_key) == ("run7", "key8")
    alone = logger("WandbLogger", id=None)
    resume.continue_loggers(Namespace(trainer=Namespace(logger=alone)), logged)
    assert alone.init_args.id == "abc123"


def test_a_configured_id_is_kept(logged):
    loggers = [logger("WandbLogger", id="mine"), logger("TensorBoardLogger", version=0)]
    resume.continue_loggers(Namespace(trainer=Namespace(logger=loggers)), logged)
    assert (loggers[0].init_args.id, loggers[1].init_args.version) == ("mine", 0)


@pytest.mark.parametrize("configured", [None, True, False, []])
def test_a_run_without_such_loggers_is_left_alone(logged, configured):
    resume.continue_loggers(Namespace(trainer=Namespace(logger=configured)), logged)
