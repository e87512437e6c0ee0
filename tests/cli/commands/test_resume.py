"""What a resumed run takes over from its checkpoint, and what it refuses."""

import sys

import pytest
import torch
from jsonargparse import Namespace
from torch import nn

from lightning_gans import DCGAN, GAN, VAE, DataError, GenerativeModule, SettingError
from lightning_gans.cli import resume
from lightning_gans.cli.parsing import TrainingParser
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
    """A generator of the user's own, with a network in its arguments."""

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
    assert resume.find_run(str(run)) == run
    assert resume.find_run(f"{run}/") == run
    assert resume.find_run(str(run / "checkpoints" / "best.ckpt")) == run


def test_a_folder_of_runs_names_those_in_it(run):
    with pytest.raises(DataError, match=rf"quickstart is no run's folder: .*config.yaml. Runs in it: {run}\."):
        resume.find_run(str(run.parent))
    (run / "config.yaml").unlink()
    with pytest.raises(DataError, match=r"version_0 is no run's folder: it has no config.yaml.$"):
        resume.find_run(str(run))


@pytest.mark.parametrize("name", ["nowhere", "nowhere/checkpoints/last.ckpt"])
def test_a_folder_that_is_not_there_is_named(name):
    with pytest.raises(DataError, match=r"^nowhere is no folder: name that of a run"):
        resume.find_run(name)


def test_the_words_of_the_fit_that_goes_on(run, capsys):
    words, folder = resume.words_to_fit([str(run), "--trainer.max_epochs", "9"])
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    assert words == ["fit", "-c", str(run / "config.yaml"), "--trainer.max_epochs", "9", "--ckpt_path", checkpoint]
    assert folder == run
    assert capsys.readouterr().out == ""


def test_a_run_without_a_checkpoint_starts_afresh_and_says_so(run, capsys):
    (run / "checkpoints" / "last.ckpt").unlink()
    assert resume.words_to_fit([str(run)]) == (["fit", "-c", str(run / "config.yaml")], run)
    assert capsys.readouterr().out == f"{run} has no checkpoint yet: it starts afresh.\n"


def test_a_run_whose_last_checkpoint_is_gone_is_not_written_over(run):
    (run / "checkpoints" / "last.ckpt").rename(run / "checkpoints" / "best.ckpt")
    with pytest.raises(DataError, match=r"last.ckpt does not exist: .*--ckpt_path .*best.ckpt\.$"):
        resume.words_to_fit([str(run)])
    best = str(run / "checkpoints" / "best.ckpt")
    words = ["fit", "-c", str(run / "config.yaml"), "--ckpt_path", best]
    assert resume.words_to_fit([str(run), "--ckpt_path", best]) == (words, run)


@pytest.mark.parametrize("trace", ["run.json", "metrics/step=0000100.json"])
def test_a_run_whose_checkpoints_are_gone_is_not_written_over(run, trace):
    (run / "checkpoints" / "last.ckpt").unlink()
    (run / "metrics").mkdir()
    (run / trace).touch()
    with pytest.raises(
        DataError, match=r"version_0 has trained before: .* or begin a new run with `lightning-gans fit"
    ):
        resume.words_to_fit([str(run)])


@pytest.mark.parametrize("content", ["a: [1", "- 1", "\xff"])
def test_a_damaged_configuration_is_named(run, content):
    (run / "config.yaml").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=r"config\.yaml is no recipe: "):
        resume.words_to_fit([str(run)])


@pytest.mark.parametrize("words", [[], ["--trainer.max_epochs", "9"]])
def test_a_run_has_to_be_named(words):
    with pytest.raises(SettingError, match="resume needs the folder of a run"):
        resume.words_to_fit(words)


def test_a_checkpoint_belongs_to_the_run_in_whose_folder_it_lies(run):
    assert resume.run_of(run / "checkpoints" / "other.ckpt") == run
    assert resume.run_of(str(run / "checkpoints" / "last.ckpt")) == run
    assert resume.run_of(run / "last.ckpt") is None
    (run / "config.yaml").unlink()
    assert resume.run_of(run / "checkpoints" / "last.ckpt") is None


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
    return f"{type(model).__module__}.{type(model).__qualname__}" == about["class"]


def test_settings_come_from_the_checkpoint_where_the_recipe_has_others(save, adopt):
    checkpoint = save(tiny(GAN, generator_dims=[5, 6], loss="minimax", generator_lr=0.5, ema_half_life=7))
    model = adopt(checkpoint, [*TINY_GAN, "--model.discriminator_dims", "[9]", "--model.betas", "[0.1,0.2]"])
    assert holds(model, checkpoint)
    assert (model.loss, model.generator_lr, model.betas, model.ema_half_life) == ("minimax", 0.5, (0.5, 0.999), 7)


@pytest.mark.parametrize("recipe", ["DCGAN", "VAE"])
def test_the_class_comes_from_the_checkpoint_where_the_recipe_has_another(save, adopt, recipe):
    checkpoint = save(tiny(GAN))
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
def test_a_setting_that_conflicts_is_refused_with_both_values(save, adopt, words):
    checkpoint = save(tiny(GAN))
    with pytest.raises(SettingError, match=f"^model.latent_dim is 5 on the command line, but 4 in {checkpoint}"):
        adopt(checkpoint, TINY_GAN, words)


def test_options_for_speed_may_change_with_the_machine(save, adopt):
    checkpoint = save(tiny(GAN, channels_last=True, matmul_precision="high", compile_mode=None))
    words = ["--model.channels_last", "false", "--model.matmul_precision=null", "--model.compile_mode", "default"]
    model = adopt(checkpoint, TINY_GAN, words)
    assert (model.channels_last, model.matmul_precision, model.compile_mode) == (False, None, "default")
    assert adopt(checkpoint, TINY_GAN).matmul_precision == "high"
    model = adopt(checkpoint, ["--model", "DCGAN"], ["--model.matmul_precision", "medium"])
    assert (model.channels_last, model.matmul_precision) == (True, "medium")


def test_a_list_that_conflicts_is_refused(save, adopt):
    with pytest.raises(SettingError, match=r"model.betas is \(0.5, 0.9\) on the command line, but \(0.5, 0.999\)"):
        adopt(save(tiny(GAN)), TINY_GAN, ["--model.betas", "[0.5,0.9]"])


@pytest.mark.parametrize("words", [["--model", "DCGAN"], ["--model=DCGAN"], ["--model.class_path", "DCGAN"]])
def test_another_class_is_refused_with_both_names(save, adopt, words):
    with pytest.raises(SettingError, match=r"^model is 'DCGAN' on the command line, but 'GAN' in "):
        adopt(save(tiny(GAN)), TINY, words)


def test_the_same_class_is_accepted(save, adopt):
    checkpoint = save(tiny(DCGAN))
    assert holds(adopt(checkpoint, TINY, ["--model", "DCGAN"]), checkpoint)


def test_networks_that_are_named_by_their_classes_come_from_the_checkpoint(save, adopt):
    checkpoints.trust(__name__)
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
        assert adopt(checkpoint, recipe).penalties == {"r1": 1.0, "r2": 0.5}


def test_a_network_that_conflicts_is_refused(save, adopt):
    checkpoints.trust(__name__)
    model = tiny(GAN, generator=nn.Sequential(nn.Linear(LATENT_DIM, 64), nn.Unflatten(1, SHAPE)))
    model.note_arguments(generator={"class_path": NETWORK, "init_args": {"body": None, "scale": 0.5}})
    with pytest.raises(SettingError, match=r"model.generator is .*'scale': 3.0.* on the command line, but .*0.5"):
        adopt(
            save(model),
            [*TINY_GAN, "--model.generator", NETWORK, "--model.generator.body", "torch.nn.Identity"],
            ["--model.generator.scale", "3.0"],
        )


def test_a_class_of_the_users_own_goes_on_where_the_recipe_names_it(save, adopt):
    checkpoint = save(tiny(Doubled, scale=5.0))
    model = adopt(checkpoint, ["--model", OWN, *TINY_GAN[2:]])
    assert holds(model, checkpoint)
    assert (type(model), model.scale) == (Doubled, 5.0)


@pytest.mark.parametrize("place", ["class", "generator"])
def test_a_class_that_is_not_imported_is_refused_without_importing_it(save, adopt, tmp_path, monkeypatch, place):
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
    with pytest.raises(DataError, match=r"own_models\.Own is your own class"):
        adopt(checkpoint, TINY_GAN)
    assert not marker.exists() and "own_models" not in sys.modules


@pytest.mark.parametrize("content", [b"junk", None])
def test_a_file_that_is_no_checkpoint_is_refused(adopt, tmp_path, content):
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
    ]
    torch.save(content, checkpoint)
    return checkpoints.description(checkpoints.read(checkpoint))


def test_loggers_go_on_with_their_runs(logged):
    loggers = [logger("TensorBoardLogger", version=None), logger("WandbLogger", id=None), logger("CSVLogger")]
    resume.continue_loggers(Namespace(trainer=Namespace(logger=loggers)), logged)
    assert loggers[0].init_args.version == 4
    assert loggers[1].init_args.id == "abc123"
    assert loggers[2].init_args == Namespace()
    alone = logger("WandbLogger", id=None)
    resume.continue_loggers(Namespace(trainer=Namespace(logger=alone)), logged)
    assert alone.init_args.id == "abc123"


def test_an_id_that_is_given_is_kept(logged):
    loggers = [logger("WandbLogger", id="mine"), logger("TensorBoardLogger", version=0)]
    resume.continue_loggers(Namespace(trainer=Namespace(logger=loggers)), logged)
    assert (loggers[0].init_args.id, loggers[1].init_args.version) == ("mine", 0)


@pytest.mark.parametrize("configured", [None, True, False, []])
def test_no_loggers_are_no_matter(logged, configured):
    resume.continue_loggers(Namespace(trainer=Namespace(logger=configured)), logged)
