"""The colour of a surface point seen from a direction."""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float, Int
from nerfstudio.field_components.embedding import Embedding
from nerfstudio.field_components.encodings import NeRFEncoding
from torch import Tensor, nn


class ColorNetwork(nn.Module):
    """Point, encoded view direction, normal, geometry features and an appearance code to a colour in [0, 1].

    The ReLU network of NeuS and IDR (Yariv et al., NeurIPS 2020, Sec. 3), with NeRF-W's code for each photograph
    (Martin-Brualla et al., CVPR 2021) where exposure or light differ.

    Args:
        feature_dim: geometry features.
        width: neurons of every hidden layer.
        layers: hidden layers.
        weight_norm: whether the layers are weight-normalised.
        images: number of photographs with an appearance code; 0 for no codes.
        appearance_dim: length of the code.
        average_appearance: in evaluation, the mean of all codes instead of zeros.
    """

    def __init__(
        self,
        feature_dim: int,
        width: int,
        layers: int,
        weight_norm: bool = True,
        images: int = 0,
        appearance_dim: int = 32,
        average_appearance: bool = False,
    ) -> None:
        super().__init__()
        self.average_appearance = average_appearance
        self.directions = NeRFEncoding(
            in_dim=3, num_frequencies=4, min_freq_exp=0.0, max_freq_exp=3.0, include_input=True, implementation="torch"
        )
        self.appearance = Embedding(images, appearance_dim) if images else None
        self.appearance_dim = appearance_dim if images else 0
        widths = (3 + self.directions.get_out_dim() + 3 + feature_dim + self.appearance_dim, *([width] * layers), 3)
        modules: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(widths):
            layer = nn.Linear(n_in, n_out)
            modules += [nn.utils.parametrizations.weight_norm(layer) if weight_norm else layer, nn.ReLU()]
        self.layers = nn.Sequential(*modules[:-1], nn.Sigmoid())

    def forward(
        self,
        points: Float[Tensor, "N 3"],
        directions: Float[Tensor, "N 3"],
        normals: Float[Tensor, "N 3"],
        features: Float[Tensor, "N features"],
        images: Int[Tensor, "N"] | None = None,
    ) -> Float[Tensor, "N 3"]:
        """Colours in [0, 1].

        Args:
            points: in any units; the scale of the network's coordinates suits best.
            directions: unit view directions, camera to point.
            normals: unit normals.
            features: from the geometry network.
            images: index of the photograph of each point; None, and evaluation, use the average code or zeros.
        """
        parts = [points, self.directions(directions), normals, features]
        if self.appearance is not None:
            if self.training and images is not None:
                parts.append(self.appearance(images))
            elif self.average_appearance:
                parts.append(self.appearance.mean(dim=0).expand(len(points), -1))
            else:
                parts.append(points.new_zeros(len(points), self.appearance_dim))
        return self.layers(torch.cat(parts, dim=-1))
