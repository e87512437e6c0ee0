"""DINOv2 and CLIP, through torch-fidelity's classes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_gans.errors import DataError, SettingError, first_line
from lightning_gans.io.files import expanded
from lightning_gans.metrics.extractors import inception
from lightning_gans.metrics.extractors.base import Extractor, hash_module

if TYPE_CHECKING:  # torch-fidelity is imported when a network is built
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

DINOV2 = tuple(f"dinov2-vit-{size}-14" for size in "sblg")
CLIP = ("clip-vit-b-32", "clip-vit-b-16", "clip-vit-l-14", "clip-vit-l-14-336px")


class FidelityExtractor(Extractor):
    """A vision transformer as torch-fidelity wraps it: features without classes.

    ``dinov2-vit-l-14`` gives the FD-DINOv2 (Stein et al. 2023, https://arxiv.org/abs/2306.04675). The metric ``cmmd``
    on ``clip-vit-l-14-336px`` gives the CMMD (Jayasumana et al. 2024, https://arxiv.org/abs/2401.09603), except that
    images are resized here as in TensorFlow 1, bilinearly.

    Args:
        name: One of :data:`DINOV2` and :data:`CLIP`.
        weights_path: File of CLIP's weights, as OpenAI distributes it. It is a TorchScript archive, which contains
            code, so its checksum must be the original one. By default, the weights are downloaded once to the folder of
            torch.hub. DINOv2's weights are always downloaded, together with the code of its network.

    Raises:
        SettingError: ``weights_path`` is given for DINOv2.
        DataError: The weights are missing and cannot be downloaded, or the file does not contain them.
    """

    resize = "bilinear as in TensorFlow 1, to the network's size"
    num_features = 0  # known after the first images
    block_size = 25
    accelerator_block_size = 125

    def __init__(self, name: str, weights_path: str | Path | None = None) -> None:
        super().__init__()
        self.name = name
        self.network = _build(name, weights_path)
        self.weights_sha256 = hash_module(self.network)

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        """Return the features of images, uint8 ``(N, 1 or 3, H, W)``."""
        (features,) = self.network(images.expand(-1, 3, -1, -1))
        return features, None

    def differentiable_features(self, images: Tensor) -> Tensor:
        """Raise :class:`SettingError`: the network takes bytes only."""
        raise self.not_differentiable()


def _build(name: str, weights_path: str | Path | None) -> FeatureExtractorBase:
    from torch_fidelity import feature_extractor_clip, feature_extractor_dinov2

    folder = Path(torch.hub.get_dir())
    if name in DINOV2:
        if weights_path is not None:
            message = f"weights_path cannot be used with {name}, whose weights lie in {folder}: leave it out."
            raise SettingError(message, setting="weights_path", value=str(weights_path), allowed=None)
        cls, feature = feature_extractor_dinov2.FeatureExtractorDinoV2, "dinov2"
        model = feature_extractor_dinov2.MODEL_METADATA[name]
        files, url = [*folder.glob(f"checkpoints/{model}_pretrain*.pth")], "https://dl.fbaipublicfiles.com"
    else:
        cls, feature = feature_extractor_clip.FeatureExtractorCLIP, "clip"
        about = feature_extractor_clip.MODEL_METADATA[name]
        files, url = [*folder.glob(f"checkpoints/{name}-{about['hash']}.pt")], feature_extractor_clip.MODEL_URLS[name]
    if weights_path is None and not files and (failure := inception.unreachable(url)) is not None:
        message = f"the weights of {name} are not in {folder / 'checkpoints'} and cannot be downloaded ({failure})."
        raise DataError(message, setting="extractor", value=name)
    try:
        path = None if weights_path is None else str(_verified(expanded(weights_path), about["hash"]))
        network: FeatureExtractorBase = cls(name, [feature], feature_extractor_weights_path=path, verbose=False)
    except Exception as error:  # of any type, because it reads a downloaded file and its code
        message = f"the weights of {name} cannot be read from {weights_path or folder}: {first_line(error)}."
        raise DataError(message, setting="extractor", value=name) from error
    return network


def _verified(path: Path, sha256: str) -> Path:
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise ValueError("its checksum differs from that of the original file.")
    return path
