"""Evaluation: extractors, metrics on features, and scores with the protocol that they were measured under."""

from lightning_gans.metrics.disentanglement import MutualInformationGap
from lightning_gans.metrics.extractors import Extractor, ModuleExtractor, make_extractor
from lightning_gans.metrics.extractors.efficientnet import EfficientNetExtractor
from lightning_gans.metrics.extractors.fidelity import FidelityExtractor
from lightning_gans.metrics.extractors.inception import InceptionExtractor
from lightning_gans.metrics.extractors.mnist import DigitsExtractor, MNISTExtractor
from lightning_gans.metrics.extractors.stacked import StackedMNISTExtractor
from lightning_gans.metrics.frechet import FrechetDistance
from lightning_gans.metrics.gaussian_kernel import GaussianKernelDistance
from lightning_gans.metrics.inception_score import InceptionScore
from lightning_gans.metrics.kernel import KernelDistance
from lightning_gans.metrics.manifold import DensityCoverage, PrecisionRecall
from lightning_gans.metrics.modes import ModeCoverage
from lightning_gans.metrics.monge import MongeDistance
from lightning_gans.metrics.protocol import compare
from lightning_gans.metrics.translations import Translations

__all__ = [
    "DensityCoverage",
    "DigitsExtractor",
    "EfficientNetExtractor",
    "Extractor",
    "FidelityExtractor",
    "FrechetDistance",
    "GaussianKernelDistance",
    "InceptionExtractor",
    "InceptionScore",
    "KernelDistance",
    "MNISTExtractor",
    "ModeCoverage",
    "ModuleExtractor",
    "MongeDistance",
    "MutualInformationGap",
    "PrecisionRecall",
    "StackedMNISTExtractor",
    "Translations",
    "compare",
    "make_extractor",
]
