"""A checkpoint, or the folder of a run, that somebody else has written runs no code."""

import inspect
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from jsonargparse import Namespace
from torch import nn

import lightning_gans
from lightning_gans import DataError, networks
from lightning_gans._lightning import pl
from lightning_gans.cli import resume
from lightning_gans.cli.main import main, trusting
from lightning_gans.cli.parsing import RecipeAction, TrainingParser, resuming
from lightning_gans.cli.run_folder import RunFolder
from lightning_gans.cli.working_folder import add_working_folder
from lightning_gans.training import allowed_classes
from tests.toys import loader, make_batches, tiny


class Touches:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


class Reader(nn.Module):
    """A network whose constructor reads a file, as some in the wild do."""

    def __init__(self, path: str = ""):
        super().__init__()
        pickle.loads(Path(path).read_bytes())


@pytest.fixture
def mark(tmp_path):
    return tmp_path / "code has run"


@pytest.fixture
def pickled(tmp_path, mark):
    path = tmp_path / "other.ckpt"
    path.write_bytes(pickle.dumps(Touches(mark)))
    return path


@pytest.fixture
def crafted(make_trainer, tmp_path):
    """Return a function that saves a checkpoint whose generator is what it is given."""

    def craft(config):
        trainer, path = make_trainer(max_steps=1), tmp_path / "crafted.ckpt"
        trainer.fit(tiny(lightning_gans.GAN), loader(make_batches(1)))
        trainer.save_checkpoint(path)
        content = torch.load(path, weights_only=True)
        content["lightning_gans"]["arguments"]["generator"] = config
        torch.save(content, path)
        return path

    return craft


def inception(pickled):
    name = "torch_fidelity.feature_extractor_inceptionv3.FeatureExtractorInceptionV3"
    arguments = {"name": "x", "features_list": ["2048"], "feature_extractor_weights_path": str(pickled)}
    return {"class_path": name, "init_args": arguments}


def test_an_imported_network_that_is_not_on_the_list_is_not_built(crafted, pickled, mark):
    import torch_fidelity.feature_extractor_inceptionv3  # noqa: F401  # as a scored run has imported it

    for config in (
        inception(pickled),
        {"class_path": f"{__name__}.Reader", "init_args": {"path": str(pickled)}},
        {
            "class_path": "lightning_gans.metrics.extractors.inception.InceptionExtractor",
            "init_args": {"weights_path": "x"},
        },
        {"class_path": "torch.nn.Sequential", "init_args": {"args": [inception(pickled)]}},
    ):
        path = crafted(config)
        with pytest.raises(DataError, match="so it is not built from a checkpoint"):
            lightning_gans.load(path)
        with pytest.raises(SystemExit) as stop:
            main(["sample", str(path), "--output", "x.png"])
        assert stop.value.code == 1
    assert not mark.exists()


def test_the_same_file_runs_its_code_once_its_module_is_trusted(crafted, pickled, mark):
    path = crafted({"class_path": f"{__name__}.Reader", "init_args": {"path": str(pickled)}})
    with pytest.raises(DataError, match="does not fit the model"):  # the network is built, and has other weights
        lightning_gans.load(path, imports=[__name__])
    assert mark.exists()


FILE_WORDS = ("path", "file", "dir", "url", "weights", "checkpoint", "state_dict")


def test_no_network_on_the_list_takes_a_path():
    layers = [getattr(nn, name) for name in dir(nn)]
    ours = [
        getattr(module, name) for module in vars(networks).values() if inspect.ismodule(module) for name in vars(module)
    ]
    classes = {cls for cls in layers + ours if inspect.isclass(cls) and issubclass(cls, nn.Module)}
    allowed = [cls for cls in classes if allowed_classes.is_below(cls.__module__, allowed_classes._NETWORKS)]
    assert {nn.Linear, nn.Sequential, networks.DCGANGenerator, networks.MLPDiscriminator} <= set(allowed)
    for cls in allowed:
        for name in inspect.signature(cls.__init__).parameters:
            assert not any(word in name.lower().split("_") for word in FILE_WORDS), (cls, name)


# --- the folder of a run -----------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path, monkeypatch, mark):
    """A module on the path that leaves a mark when it is imported."""
    (tmp_path / "own_code.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Own: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_code", None)


@pytest.mark.parametrize(
    "config",
    [
        {"model": {"class_path": "own_code.Own"}},
        {"model": "own_code.Own"},
        {"data": "own_code.Own"},
        {"trainer": {"callbacks": [{"class_path": "own_code.Own"}]}},
        {"trainer": {"logger": "own_code.Own"}},
        {"trainer": {"callbacks": [{"class_path": "x", "init_args": {"avg_fn": "own_code.Own"}}]}},
        {"model": {"class_path": "GAN", "init_args": {"generator": {"class_path": "own_code.Own"}}}},
        {"metrics": {"own": {"x": "own_code.Own"}}},
        {"data": {"class_path": "os.system"}},
        {"data": "lightning_gans.cli.main.os.system"},
        {"data": "lightning_gans.io.files.shutil.rmtree"},
        {"trainer": {"callbacks": "pytorch_lightning.callbacks.model_checkpoint.os.remove"}},
        {"model": "torch.nn.modules.module.torch.load"},
        {"model": {"init_args": {"generator": inception("x")}}},
    ],
)
def test_a_run_that_names_other_code_is_not_resumed(tmp_path, own, mark, config):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(DataError, match=r"add `--import "):
        resume.words_to_fit([str(tmp_path)])
    assert not mark.exists()


IN_A_SETTING = [
    "{class_path: own_code.Own}",
    '[\t{"class_path": "own_code.Own"}]',
    "[own_code.Own]",
    "other.yaml",
    " own_code.Own",
    "!!set {own_code.Own: }",
]


@pytest.mark.parametrize("value", IN_A_SETTING)
def test_what_the_parser_loads_from_a_setting_runs_no_code(tmp_path, monkeypatch, own, mark, value):
    monkeypatch.chdir(tmp_path)
    Path("other.yaml").write_text("class_path: own_code.Own")
    parser = TrainingParser()
    parser.add_subclass_arguments(pl.LightningDataModule, "data")
    parser.add_argument("-c", action=RecipeAction)
    Path("config.yaml").write_text(f"data: {value}" if value.startswith("!!") else yaml.safe_dump({"data": value}))
    for words in (["--data", value], ["-c", "config.yaml"]):
        with (
            resuming(Path("config.yaml")),
            pytest.raises(DataError, match=r"names own_code\.Own\. lightning-gans imports only code that you trust"),
        ):
            parser.parse_args(words)
    assert not mark.exists()


def test_a_resumed_run_imports_nothing_that_its_settings_or_its_checkpoint_name_in_a_string(
    tmp_path, own, mark, crafted, capsys
):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": "{class_path: own_code.Own}"}))
    with pytest.raises(SystemExit):
        main(["resume", str(tmp_path)])
    config = SimpleNamespace(model=Namespace(class_path="GAN", init_args=Namespace()))
    with pytest.raises(DataError, match=r"names own_code\.Own\. lightning-gans imports only code that you trust"):
        resume.adopt_model(config, crafted("own_code.Own"), [])
    assert "names own_code.Own. lightning-gans imports only code that you trust" in capsys.readouterr().err
    assert not mark.exists()


@pytest.mark.parametrize("name", [".lock", "hparams.yaml", "samples"])
def test_a_run_does_not_follow_a_link_out_of_its_folder(tmp_path, name):
    run, other = tmp_path / "run", tmp_path / "other"
    run.mkdir()
    other.write_text("precious")
    (run / "inside").symlink_to(run / "checkpoints")
    (run / name).symlink_to(other)
    with pytest.raises(DataError, match="is a link out of the run's folder"), RunFolder(run).locked():
        pass
    (run / name).unlink()
    (tmp_path / ".lock").symlink_to(other)  # of a folder of checkpoints
    with pytest.raises(OSError, match="symbolic"), RunFolder(run, tmp_path).locked():
        pass
    assert other.read_text() == "precious"


def test_the_arguments_of_a_stored_network_are_a_mapping(crafted):
    with pytest.raises(DataError, match="the arguments of its Linear are not a mapping"):
        lightning_gans.load(crafted({"class_path": "torch.nn.Linear", "init_args": "other.yaml"}))


def test_a_module_that_is_trusted_may_be_named(tmp_path, own, mark):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": "own_code.Own"}))
    assert trusting([str(tmp_path), "--import", "own_code"]) == [str(tmp_path)]
    assert mark.exists()
    resume.words_to_fit([str(tmp_path)])


def test_what_our_own_runs_name_is_allowed(tmp_path):
    config = {
        "model": {
            "class_path": "lightning_gans.DCGAN",
            "init_args": {"generator": {"class_path": "torch.nn.Identity"}},
        },
        "data": {"class_path": "lightning_gans.ImageFolderDataModule", "init_args": {"folder": "no_module.here"}},
        "trainer": {
            "callbacks": [{"class_path": "pytorch_lightning.callbacks.EarlyStopping"}],
            "logger": [
                {"class_path": "pytorch_lightning.loggers.WandbLogger", "init_args": {"project": "no_module.either"}}
            ],
            "strategy": {"class_path": "pytorch_lightning.strategies.DDPStrategy"},
        },
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    resume.words_to_fit([str(tmp_path)])


@pytest.mark.parametrize("words", [["--import"], ["--import="], ["run", "--import"]])
def test_an_import_without_a_module_is_refused(words):
    with pytest.raises(lightning_gans.SettingError, match="--import needs the name of a module"):
        trusting(words)


# --- the working folder -------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["", None])
def test_the_working_folder_is_not_searched(tmp_path, monkeypatch, first):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path) if first is None else first, *sys.path])
    monkeypatch.setattr(sys, "argv", ["lightning-gans", "--version"])
    main()
    assert not {"", str(tmp_path)} & set(sys.path)


def test_the_working_folder_is_searched_last_for_what_is_named(tmp_path, monkeypatch):
    (tmp_path / "own_networks_of_mine.py").touch()
    (tmp_path / "torch.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    add_working_folder(["torch.nn.Linear", "absent_networks.Net", "0.5"])
    assert str(tmp_path) not in sys.path
    add_working_folder(["own_networks_of_mine.Net"])
    assert sys.path[-1] == str(tmp_path) and sys.path.count(str(tmp_path)) == 1


@pytest.mark.slow
def test_no_module_of_a_downloaded_folder_runs(tmp_path):
    """Torch and jsonargparse look for these."""
    for name in ("tabulate", "ruamel", "attrs", "onnxruntime"):
        (tmp_path / f"{name}.py").write_text("print('it ran')")
    words = [sys.executable, "-m", "lightning_gans", "fit", "-c", "quickstart", "--trainer.fast_dev_run", "true"]
    told = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "it ran" not in told.stdout + told.stderr
