import hashlib
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from lightning_gans import DataError
from lightning_gans.io.pictures import from_bytes
from lightning_gans.metrics import InceptionExtractor
from lightning_gans.metrics.extractors import inception
from tests.inception_weights import write_inception_weights

ask = inception.unreachable  # before the tests' own takes its place


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    images = torch.randint(256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return write_inception_weights(tmp_path_factory.mktemp("weights") / "inception.pth", images)


@pytest.fixture
def serve(monkeypatch):
    """Serve some bytes in the place of the weights, and return what is asked for."""
    servers = []

    def serve(content, status=200):
        requests = []

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                requests.append(self.command)
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()

            def do_GET(self):
                self.do_HEAD()
                self.wfile.write(content)

            def log_message(self, *args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setattr(inception, "URL_INCEPTION_V3", f"http://127.0.0.1:{server.server_port}/weights.pth")
        monkeypatch.setattr(inception, "unreachable", ask)
        monkeypatch.setenv("no_proxy", "*")
        return requests

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def files(folder):
    return [path.name for path in folder.rglob("*") if path.is_file()]


# --- where the weights come from --------------------------------------------------------------------------


def names_all_that_helps(message):
    assert inception.FILE_NAME in message
    assert str(inception.hub_path().parent) in message
    assert "set weights_path" in message and "metrics" not in message
    assert inception.URL_INCEPTION_V3 in message


def test_missing_weights_are_named_with_their_place_and_the_way_out():
    with pytest.raises(DataError, match=r"cannot be downloaded \(no network in tests\)") as caught:
        InceptionExtractor()
    names_all_that_helps(str(caught.value))


@pytest.mark.slow
def test_a_server_that_never_answers_costs_a_few_seconds(monkeypatch):
    over = threading.Event()

    def wait(*args, **options):
        over.wait(60)
        raise OSError("too late")

    monkeypatch.setattr(inception, "unreachable", ask)
    monkeypatch.setattr(urllib.request, "urlopen", wait)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"no answer in \d seconds") as caught:
        InceptionExtractor()
    assert time.monotonic() - start < 10
    over.set()
    names_all_that_helps(str(caught.value))


def test_a_server_that_refuses(serve):
    serve(b"", status=404)
    with pytest.raises(DataError, match=r"cannot be downloaded \(Not Found\)"):
        inception.find_weights()


def test_nobody_at_the_address(monkeypatch):
    monkeypatch.setattr(inception, "unreachable", ask)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(inception, "URL_INCEPTION_V3", "http://127.0.0.1:9/weights.pth")
    with pytest.raises(DataError, match=r"cannot be downloaded \(.*refused"):
        inception.find_weights()


def test_what_is_downloaded_is_kept(serve, monkeypatch):
    content = b"all the weights"
    monkeypatch.setattr(inception, "_HASH_PREFIX", hashlib.sha256(content).hexdigest()[:8])
    requests = serve(content)
    path = inception.find_weights()
    assert path == inception.hub_path()
    assert path.name == inception.FILE_NAME
    assert path.read_bytes() == content
    requests.clear()
    assert inception.find_weights() == path
    assert requests == []


def test_another_file_is_not_kept(serve):
    serve(b"a page that says please log in")
    with pytest.raises(DataError) as caught:
        inception.find_weights()
    assert caught.value.setting == str(inception.hub_path())
    assert not inception.hub_path().parent.exists() or files(inception.hub_path().parent) == []


def test_a_file_that_is_named_is_not_looked_for_elsewhere(serve, tmp_path):
    requests = serve(b"")
    with pytest.raises(DataError) as caught:
        InceptionExtractor(tmp_path / "nowhere.pth")
    assert (caught.value.setting, caught.value.value) == ("weights_path", str(tmp_path / "nowhere.pth"))
    with pytest.raises(DataError) as caught:
        InceptionExtractor(str(tmp_path))
    assert caught.value.value == str(tmp_path)
    assert requests == []


def test_the_home_folder_may_be_short(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "weights.pth").touch()
    assert inception.find_weights("~/weights.pth") == tmp_path / "weights.pth"


# --- what they hold ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"fc.weight": torch.zeros(1008, 2048)},
        {"fc.weight": "no tensor"},
        [torch.zeros(3)],
        torch.zeros(3),
        b"no file of torch at all",
        b"",
    ],
    ids=["nothing", "one tensor", "text", "a list", "a tensor", "garbage", "empty"],
)
def test_files_that_hold_something_else(tmp_path, content):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(DataError) as caught:
        InceptionExtractor(path)
    assert caught.value.setting == str(path)


def test_a_damaged_file_where_torch_hub_keeps_them_is_named():
    path = inception.hub_path()
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a downl")
    with pytest.raises(DataError) as caught:
        InceptionExtractor()
    assert str(caught.value).startswith(f"{path} does not contain the Inception weights")


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("new_format", [True, False])
def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path, new_format):
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    torch.save({"fc.weight": Harmful(trace)}, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(DataError) as caught:
        InceptionExtractor(path)
    assert caught.value.setting == str(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()  # it would have


@pytest.fixture(scope="module")
def extractor(weights):
    return InceptionExtractor(weights)


def test_the_right_tensors_are_loaded_as_they_are(extractor, weights):
    state = torch.load(weights)
    found = extractor.network.state_dict()
    assert found.keys() == state.keys()
    assert all(found[name].equal(value) for name, value in state.items())
    assert extractor.weights_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert extractor.describe()["extractor"] == "inception"
    assert not any(module.training for module in extractor.network.modules())
    assert not any(parameter.requires_grad for parameter in extractor.parameters())


def test_features_and_logits_come_from_one_pass_and_the_logits_without_bias(extractor):
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    features, logits = extractor(images)
    assert (features.shape, logits.shape) == ((2, 2048), (2, 1008))
    assert features.dtype == logits.dtype == torch.float32
    assert extractor.network.fc.bias.any()
    torch.testing.assert_close(logits, features @ extractor.network.fc.weight.T, rtol=1e-4, atol=1e-4)


def test_on_a_cpu_the_channels_come_last_and_the_numbers_are_torch_fidelitys(extractor, weights):
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    found = extractor(images)
    assert extractor.network.Conv2d_2a_3x3.conv.weight.is_contiguous(memory_format=torch.channels_last)
    theirs = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
    )
    assert not theirs.Conv2d_2a_3x3.conv.weight.is_contiguous(memory_format=torch.channels_last)
    for ours, wanted in zip(found, theirs(images), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=1e-3 * wanted.std().item())


def test_a_grey_image_is_an_image_of_three_equal_channels(extractor):
    grey = torch.randint(256, (1, 1, 28, 28), dtype=torch.uint8)
    features, _ = extractor(grey)
    assert features.equal(extractor(grey.repeat(1, 3, 1, 1))[0])
    assert features.std() > 0


@pytest.mark.parametrize("channels", [1, 3])
def test_differentiable_features_are_those_of_bytes_and_have_their_gradient(extractor, channels):
    pixels = torch.randint(256, (1, channels, 20, 20), dtype=torch.uint8)
    images = from_bytes(pixels).requires_grad_()
    found = extractor.differentiable_features(images)
    torch.testing.assert_close(found, extractor(pixels)[0], rtol=1e-3, atol=1e-4)
    direction = torch.randn(2048)
    (gradient,) = torch.autograd.grad(found @ direction, images)
    with torch.no_grad():  # against a difference of two passes
        step = 1e-3 * gradient / gradient.norm()
        ends = [extractor.differentiable_features(images + sign * step) @ direction for sign in (1, -1)]
    torch.testing.assert_close((ends[0] - ends[1]) / 2e-3, gradient.norm()[None], rtol=0.1, atol=0)


def test_a_download_that_breaks_off(serve, monkeypatch):
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            self.wfile.write(b"half")

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(inception, "URL_INCEPTION_V3", f"http://127.0.0.1:{server.server_port}/weights.pth")
    monkeypatch.setattr(inception, "unreachable", ask)
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(DataError, match="cannot be downloaded"):
        inception.find_weights()
    server.shutdown()
