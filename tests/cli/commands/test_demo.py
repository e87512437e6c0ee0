"""The page with a model's samples."""

import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gans import GAN, ConditionalGAN, DataError, SettingError
from lightning_gans.cli.commands import demo
from lightning_gans.io.pictures import grid
from tests.toys import tiny

CHROMIUM = shutil.which("chromium")
NO_LIMIT = 4.0


def pixels(picture):
    return np.asarray(picture).astype(int)


def enlarged(images):
    picture = grid(images)
    factor = 512 // max(picture.size)
    return np.kron(pixels(picture), np.ones((factor, factor, 1), int))


@pytest.fixture(params=[GAN, ConditionalGAN])
def model(request):
    return tiny(request.param)


def test_the_ends_of_the_way_are_the_samples_of_the_seeds(model):
    for share, seed in ((0.0, 5), (1.0, 9)):
        found = pixels(demo.draw(model, 5, 9, share, NO_LIMIT))
        expected = enlarged(model.sample(16, seed=seed))
        assert abs(found - expected).max() <= 1
    half = pixels(demo.draw(model, 5, 9, 0.5, NO_LIMIT))
    assert abs(half - found).max() > 1


def test_the_controls_change_what_they_say():
    model = tiny(ConditionalGAN)
    ones = torch.full((16,), 1)
    expected = enlarged(model.sample(16, ones, seed=5, truncation=0.5, ema=False))
    assert abs(pixels(demo.draw(model, 5, 9, 0, 0.5, "1", ema=False)) - expected).max() <= 1
    assert (pixels(demo.draw(model, None, 9, 0, NO_LIMIT)) == pixels(demo.draw(model, 0, 9, 0, NO_LIMIT))).all()


def test_without_its_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)  # an import fails
    with pytest.raises(DataError, match=r"lightning_gans\[demo\]"):
        demo.run("nowhere.ckpt")


def test_a_port_out_of_range(monkeypatch):
    monkeypatch.setattr(demo, "_gradio", lambda: None)
    with pytest.raises(SettingError) as caught:
        demo.run("nowhere.ckpt", port=70_000)
    assert (caught.value.setting, caught.value.value) == ("--port", 70_000)


@pytest.mark.slow
def test_the_page_is_for_this_machine_and_shows_the_samples():
    gradio, client = pytest.importorskip("gradio"), pytest.importorskip("gradio_client")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model = tiny(ConditionalGAN)
    page = demo.make_page(gradio, model)
    _, url, shared = demo.launch(page, "127.0.0.1", port, prevent_thread_lock=True)
    try:
        assert url.startswith(f"http://127.0.0.1:{port}") and not shared
        with pytest.raises(SettingError) as caught:
            demo.launch(demo.make_page(gradio, model), "127.0.0.1", port)
        assert caught.value.value == f"127.0.0.1:{port}"
        made = client.Client(url, verbose=False).predict(3, 4, 0.5, 1.0, "2")
        assert (pixels(Image.open(made)) == pixels(demo.draw(model, 3, 4, 0.5, 1.0, "2"))).all()
        if CHROMIUM is None:
            pytest.skip("chromium is not installed")
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
        words = [CHROMIUM, *options, url]
        found = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout
        assert all(name in found for name in ("ConditionalGAN", "Second seed", "all in turn")) and "<img" in found
    finally:
        page.close()
