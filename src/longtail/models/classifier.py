"""Classifiers: the layer that stage one trains, and the plain matrix that stage two returns."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F


class LinearClassifier(nn.Linear):
    """logits = W f + b, the usual last layer; Kaiming-normal weights, zero bias (as the CIFAR ResNets of LDAM-DRW)."""

    def __init__(self, feature_dim: int, num_classes: int) -> None:
        super().__init__(feature_dim, num_classes)
        nn.init.kaiming_normal_(self.weight)
        nn.init.zeros_(self.bias)

    def export(self) -> "Classifier":
        """Return this layer as stage two's plain `Classifier`."""
        return Classifier(self.weight.detach().clone(), self.bias.detach().clone())


class CosineClassifier(nn.Module):
    """logits = scale * cos(w_k, f), in [-scale, scale]; no bias (NormedLinear of LDAM-DRW has scale 1).

    Args:
        feature_dim: D.
        num_classes: K.
        scale: multiplies the cosines; margin losses bring their own scale and want 1 here.
    """

    def __init__(self, feature_dim: int, num_classes: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(F.normalize(torch.empty(num_classes, feature_dim).uniform_(-1, 1)))

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, D) to logits (B, K)."""
        # In float32: bfloat16 resolves a cosine to 3 digits, which a margin loss multiplies by 30.
        with torch.autocast(features.device.type, enabled=False):
            wide = features.float() if features.dtype.itemsize < 4 else features
            return self.scale * F.linear(F.normalize(wide), F.normalize(self.weight.to(wide)))

    def export(self) -> "Classifier":
        """Return this layer as stage two's plain `Classifier`."""
        weight = self.scale * F.normalize(self.weight.detach())
        return Classifier(weight, weight.new_zeros(len(weight)), unit_norm=True)


@dataclass(frozen=True)
class Classifier:
    """What every balancer returns: logits = W t(f) + b, where t is the feature transform that test features meet too.

    Args:
        weight: (K, D) float32.
        bias: (K,) float32.
        power: Tukey power of the (non-negative) features, 1 for none and 0 for the logarithm.
        centre: (D,) subtracted after the power, or None.
        unit_norm: whether features are scaled to unit length last.
        statistics: BatchNorm running means and variances of the backbone, by their names in its state_dict, where a
            method moved them (MiSLAS); None leaves the backbone as stage one trained it. See Network.with_statistics.
    """

    weight: Tensor
    bias: Tensor
    power: float = 1.0
    centre: Tensor | None = None
    unit_norm: bool = False
    statistics: dict[str, Tensor] | None = None

    def transform(self, features: Tensor) -> Tensor:
        """Apply power, centring and unit norm, in this order, to features (..., D)."""
        features = tukey(features, self.power)
        if self.centre is not None:
            features = features - self.centre.to(features)
        return F.normalize(features, dim=-1) if self.unit_norm else features

    def __call__(self, features: Tensor) -> Tensor:
        """Map features (..., D) to logits (..., K)."""
        return F.linear(self.transform(features), self.weight.to(features), self.bias.to(features))

    def save(self, path: Path) -> None:
        """Write the classifier as safetensors; everything is a tensor, so equal classifiers are equal bytes."""
        tensors = {
            "weight": self.weight,
            "bias": self.bias,
            "power": torch.tensor(self.power, dtype=torch.float64),
            "unit_norm": torch.tensor(self.unit_norm),
        }
        if self.centre is not None:
            tensors["centre"] = self.centre
        tensors |= {f"statistics.{name}": value for name, value in (self.statistics or {}).items()}
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        t = load_file(path)
        prefix = "statistics."
        statistics = {name.removeprefix(prefix): t[name] for name in t if name.startswith(prefix)}
        return cls(t["weight"], t["bias"], float(t["power"]), t.get("centre"), bool(t["unit_norm"]), statistics or None)


def tukey(features: Tensor, power: float) -> Tensor:
    """Tukey's ladder of powers: f^power, or log(f + 1e-6) for power 0 (GLAG section 4.2; Free Lunch, ICLR 2021).

    Args:
        features: (..., D), non-negative unless power is 1 (a fractional power of a negative number is NaN).

    Raises:
        ValueError: if a feature is negative and power is not 1.
    """
    if power == 1:
        return features
    if bool((features < 0).any()):
        raise ValueError("Tukey's transform needs non-negative features; use power 1 for this network")
    return (features + 1e-6).log() if power == 0 else features**power
