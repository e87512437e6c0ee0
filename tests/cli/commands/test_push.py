"""Models as folders of safetensors and JSON, here and on the Hugging Face Hub."""

import inspect
import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import lightning_gans
from lightning_gans import GAN, ConditionalGAN, CycleGAN, DataError, Pix2Pix, SettingError, load
from lightning_gans.cli.commands import push
from lightning_gans.cli.main import main
from lightning_gans.io.hub import is_pushed
from lightning_gans.metrics.protocol import table
from tests.cli.commands.conftest import MODELS
from tests.toys import loader, make_batches, quiet_trainer, tiny

HUB = "hf:me/net"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one update, with scores."""
    folder = tmp_path_factory.mktemp("runs") / "version_0"
    trainer = quiet_trainer(folder, max_steps=1)
    trainer.fit(tiny(ConditionalGAN), loader(make_batches(1)))
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    (folder / "config.yaml").write_text("data: {class_path: DigitsDataModule, init_args: {batch_size: 4}}")
    (folder / "metrics").mkdir()
    protocol = {"likelihood": "gaussian", "binarization": "none", "likelihood_images": "val split", "iw_samples": 0}
    record = {"format": 1, "stage": "val", "step": 1, "scores": {"elbo": -12.5}, "protocol": protocol}
    (folder / "metrics" / "step=0000001.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def checkpoint(run):
    return str(run / "checkpoints" / "last.ckpt")


@pytest.fixture
def pushed(checkpoint, tmp_path):
    main(["push", checkpoint, "--to", "pushed"])
    return tmp_path / "pushed"


class Hub:
    """Keeps what is uploaded in a folder, and what it is called with in a list."""

    def __init__(self, folder):
        self.folder, self.calls = folder, []

    def create_repo(self, repo_id, exist_ok):
        self.calls.append((repo_id, exist_ok))

    def upload_folder(self, repo_id, folder_path, commit_message):
        self.calls.append((repo_id, commit_message))
        shutil.copytree(folder_path, self.folder / repo_id)

    def snapshot_download(self, repo_id, revision, allow_patterns):
        self.calls.append((repo_id, revision, *allow_patterns))
        if not (self.folder / repo_id).is_dir():
            raise OSError(f"404: {repo_id} is not there\nand more")
        return str(self.folder / repo_id)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    package = pytest.importorskip("huggingface_hub")
    made, real = Hub(tmp_path / "hub"), package.HfApi()
    for name in ("create_repo", "upload_folder", "snapshot_download"):
        monkeypatch.setattr(made, name, with_the_arguments_of(getattr(real, name), getattr(made, name)))
    monkeypatch.setattr(package, "HfApi", lambda: made)
    monkeypatch.setattr(package, "snapshot_download", made.snapshot_download)
    return made


def with_the_arguments_of(real, fake):
    """Return a function that accepts only what the real one accepts."""

    def call(*args, **options):
        inspect.signature(real).bind(*args, **options)
        return fake(*args, **options)

    return call


def assert_same(found, expected):
    assert type(found) is type(expected)
    weights = expected.state_dict()
    assert list(found.state_dict()) == list(weights)
    for name, value in found.state_dict().items():
        assert value.dtype == weights[name].dtype and value.equal(weights[name]), name
    for ema in (True, False):
        assert found.sample(5, seed=3, ema=ema).equal(expected.sample(5, seed=3, ema=ema))
    assert (found.run_seed, found.images_seen, found.weights_step) == (
        *(expected.run_seed, expected.images_seen, expected.weights_step),
    )


def test_a_folder_below_the_home_folder_is_found(pushed, monkeypatch):
    monkeypatch.setenv("HOME", str(Path(pushed).parent))
    assert is_pushed(f"~/{Path(pushed).name}")


def test_what_is_pushed_is_read_back_bit_by_bit(checkpoint, pushed):
    expected = load(checkpoint)
    assert_same(load(pushed), expected)
    assert_same(load(str(pushed), "cpu"), expected)
    assert_same(ConditionalGAN.load_from_checkpoint(pushed), expected)
    with pytest.raises(DataError):
        GAN.load_from_checkpoint(pushed)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_read_back_bit_by_bit(checkpoints, name):
    main(["push", checkpoints[name], "--to", "pushed"])
    assert_same(load("pushed"), load(checkpoints[name]))
    main(["push", "pushed", "--to", "again"])
    assert Path("again/model.safetensors").read_bytes() == Path("pushed/model.safetensors").read_bytes()


def test_commands_take_it_instead_of_a_checkpoint(checkpoint, pushed):
    for place in (checkpoint, str(pushed)):
        main(["sample", place, "--num_samples", "4", "--seed", "1", "--output", f"{Path(place).stem}.png"])
    assert Path("pushed.png").read_bytes() == Path("last.png").read_bytes()


def test_the_cards_say_what_it_is_and_how_to_load_it(run, pushed):
    card = json.loads((pushed / "config.json").read_text())
    record = json.loads((run / "metrics" / "step=0000001.json").read_text())
    assert card["lightning_gans"]["class"] == "lightning_gans.ConditionalGAN"
    assert card["lightning_gans"]["arguments"]["num_classes"] == 3
    assert card["data"] == "DigitsDataModule"
    assert card["evaluation"] == record
    assert card["versions"]["lightning_gans"] == lightning_gans.__version__
    _, front, text = (pushed / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "lightning_gans"
    assert table(record) in text and 'lightning_gans.load("pushed")' in text
    assert "![" in text and (pushed / "samples.png").stat().st_size > 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: CycleGAN((1, 16, 16), (1, 16, 16), width=4, num_blocks=1, num_layers=1, pool_size=2),
        lambda: Pix2Pix((3, 16, 16), (1, 16, 16), width=4, num_layers=1),
    ],
)
def test_a_translator_is_pushed_without_samples(make, tmp_path):
    trainer, model = quiet_trainer(tmp_path), make()
    trainer.strategy.connect(model)
    model.trainer = trainer
    trainer.save_checkpoint("last.ckpt", weights_only=True)
    main(["push", "last.ckpt", "--to", "pushed"])
    images = torch.rand(2, 1, 16, 16) * 2 - 1
    assert load("pushed").translate(images).equal(load("last.ckpt").translate(images))
    _, front, text = Path("pushed/README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["pipeline_tag"] == "image-to-image"
    assert "![" not in text and not Path("pushed/samples.png").exists()
    (words,) = (line.split()[1:] for line in text.splitlines() if line.startswith("lightning-gans"))
    Path("FOLDER").mkdir()
    Image.new("L", (16, 16)).save("FOLDER/a.png")
    main(words)
    assert Image.open("translations/a.png").size == (16, 16)


def test_nothing_is_left_of_a_push_that_fails(checkpoint, monkeypatch, tmp_path, hub):
    def fail(*_):
        raise DataError("a test")

    monkeypatch.setattr(push, "save_png", fail)
    for place in ("pushed", HUB):
        with pytest.raises(SystemExit):
            main(["push", checkpoint, "--to", place])
    assert list(tmp_path.iterdir()) == [] and hub.calls == []


def test_a_folder_with_files_is_not_written_to(checkpoint, pushed, capsys):
    before = (pushed / "config.json").stat().st_mtime_ns
    with pytest.raises(SystemExit):
        main(["push", checkpoint, "--to", str(pushed)])
    assert str(pushed) in capsys.readouterr().err
    assert (pushed / "config.json").stat().st_mtime_ns == before


# --- the hub ----------------------------------------------------------------------------------------------


def test_the_hub_gets_one_commit_and_gives_it_back(checkpoint, hub):
    main(["push", checkpoint, "--to", HUB])
    assert hub.calls == [("me/net", True), ("me/net", "Upload a model of lightning_gans")]
    names = {path.name for path in (hub.folder / "me" / "net").iterdir()}
    assert names == {"README.md", "config.json", "model.safetensors", "samples.png"}
    assert_same(load(HUB), load(checkpoint))
    load(f"{HUB}@v1")
    files = ("config.json", "model.safetensors")
    assert hub.calls[2:] == [("me/net", None, *files), ("me/net", "v1", *files)]


def test_a_model_that_is_not_there_is_one_error(hub):
    with pytest.raises(DataError) as caught:
        load(HUB)
    assert caught.value.setting == HUB
    assert "404: me/net is not there" in str(caught.value) and "and more" not in str(caught.value)


@pytest.mark.parametrize("place", ["hf:net", "hf:me/net/more", "hf:me/net@v1"])
def test_places_that_are_none_of_the_hub(checkpoint, hub, place):
    with pytest.raises(SettingError) as caught:
        push.run(checkpoint, place)
    assert (caught.value.setting, caught.value.value) == ("--to", place)


def test_without_its_package_the_extra_is_named(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # an import fails
    for call in (lambda: load(HUB), lambda: push.run(checkpoint, HUB)):
        with pytest.raises(DataError, match=r"lightning_gans\[hub\]"):
            call()


# --- folders of strangers ---------------------------------------------------------------------------------


def change(pushed, **entries):
    card = json.loads((pushed / "config.json").read_text())
    card["lightning_gans"] |= entries
    (pushed / "config.json").write_text(json.dumps(card))


@pytest.mark.parametrize(
    "entries",
    [
        {"class": "subprocess.Popen"},
        {"class": "lightning_gans.DigitsDataModule"},
        {"arguments": {"image_shape": [1, 8, 8], "generator": {"class_path": "pathlib.Path", "init_args": {}}}},
        {"arguments": {"image_shape": [1, 8, 8], "generator": {"class_path": "tests.toys.Toys"}}},
        {"arguments": {"image_shape": [1, 8, 8], "not_an_argument": 1}},
        {"arguments": [1]},
        {"class": 3},
    ],
)
def test_a_card_may_name_only_what_a_checkpoint_may(pushed, entries):
    change(pushed, **entries)
    with pytest.raises(DataError):
        load(pushed)


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", "{}", '{"global_step": "1"}', '{"global_step": -1}', "[" * 100_000]
)
def test_a_damaged_card(pushed, content):
    (pushed / "config.json").write_text(content)
    with pytest.raises(DataError) as caught:
        load(pushed)
    assert caught.value.setting == str(pushed / "config.json")


def test_a_folder_without_a_card(tmp_path):
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert caught.value.setting == str(tmp_path / "config.json")


class Touches:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("damage", [lambda it: it[:-1], lambda it: b"", "pickle"])
def test_damaged_weights_and_pickles(pushed, tmp_path, damage):
    path = pushed / "model.safetensors"
    code = pickle.dumps(Touches(tmp_path / "mark"))
    path.write_bytes(code if damage == "pickle" else damage(path.read_bytes()))
    with pytest.raises(DataError) as caught:
        load(pushed)
    assert caught.value.setting == str(path) and not (tmp_path / "mark").exists()


def test_a_state_that_is_no_tensor_cannot_be_pushed(checkpoint, monkeypatch):
    state = ConditionalGAN.state_dict
    monkeypatch.setattr(ConditionalGAN, "state_dict", lambda self: {**state(self), "pool._extra_state": [1]})
    monkeypatch.setattr(push, "load_model", lambda *_: tiny(ConditionalGAN))
    with pytest.raises(DataError) as caught:
        push.run(checkpoint, "pushed")
    assert caught.value.value == "pool._extra_state" and not Path("pushed").exists()


def test_an_export_does_not_replace_the_model_that_it_reads(pushed):
    before = {path.name: path.read_bytes() for path in pushed.iterdir()}
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(pushed), "--output", str(pushed / "model.safetensors")])
    assert stopped.value.code == 2
    assert {path.name: path.read_bytes() for path in pushed.iterdir()} == before
