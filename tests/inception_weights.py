"""Weights for the Inception network that tell pictures apart without having learnt anything."""

import torch
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


class _Untrained(FeatureExtractorInceptionV3):
    """The network before it reads the weights that its constructor insists on."""

    def load_state_dict(self, *args, **options):
        pass


def write_inception_weights(path, images, seed=0):
    """Write random weights in the layout of the published file, and return its path.

    Each BatchNorm takes the statistics of these images, uint8 ``(N, 3, H, W)``: left at its defaults, the network
    has nearly the same features for every picture. Its bias of 1 keeps most ReLUs open: with 0, a few pictures
    come out ten times as large as the rest, and a Fréchet distance sees only them. The unbiased logits have a mean of
    0 and a standard deviation of 3.
    """
    torch.save({}, path)
    network = _Untrained("inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path))
    source = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=source)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.bias)
            module.momentum = 1.0
    nn.init.normal_(network.fc.weight, generator=source)
    nn.init.normal_(network.fc.bias, generator=source)
    with torch.no_grad():
        features, _ = network.train()(images)
        weight, mean = network.fc.weight, features.mean(0)
        weight -= torch.outer(weight @ mean, mean) / mean.dot(mean)
        weight *= 3 / (features @ weight.T).std()
    torch.save(network.state_dict(), path)
    return path
