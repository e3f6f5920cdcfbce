"""A data set of fields for torch: weights, what is known of each, and many fields evaluated at once."""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, vmap
from torch.utils.data import Dataset

from sasnet_ns.datasets.rows import Row, field_path, initial_path, latest_rows
from sasnet_ns.kernels import StepForm
from sasnet_ns.kernels.step_form import evaluate
from sasnet_ns.networks import Network, SignedDistanceField, step_form
from sasnet_ns.networks.export import portable


@dataclass(frozen=True)
class Layer:
    """One tensor of weights and its place in the flat vector.

    Attributes:
        name: of the parameter in the network.
        shape: of the tensor.
        start: its first place.
        stop: the place behind its last.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int


class FieldDataset(Dataset[dict[str, Any]]):
    """The fitted fields of a data set that :func:`fit_shapes` made, for torch's DataLoader.

    An item is a dictionary of ``weights`` (see below), ``index``, ``path``, ``iou`` (NaN if not measured), ``center``
    (3,) and ``scale`` (``box = (world - center) * scale``, float64). ``rows[index]`` is everything that is known.

    Args:
        output: the data set's folder.
        weights: ``flat``, one (P,) vector in the order of :attr:`layers`; or ``layers``, a dictionary of tensors.
        configuration: of a data set whose rows have several, the configuration_hash (or its beginning) to load.
        min_iou: leaves out fields below it, and those without an IoU.

    Attributes:
        rows: one a field, sorted by path.
        layers: names, shapes and places of the weights.
        field: a field of the configuration, for its architecture; its weights are those of the first row.

    Raises:
        ValueError: there are no such fields, they are of several configurations, or weights is neither word.
    """

    def __init__(
        self,
        output: str | Path,
        weights: Literal["flat", "layers"] = "flat",
        configuration: str | None = None,
        min_iou: float | None = None,
    ) -> None:
        if weights not in ("flat", "layers"):
            raise ValueError(f"weights must be flat or layers, not {weights!r}.")
        self.output = Path(output)
        self.weights = weights
        self.rows: list[Row] = [
            row
            for row in latest_rows(self.output)
            if row.status == "fitted"
            and (row.configuration_hash or "").startswith(configuration or "")
            and (min_iou is None or (row.iou is not None and row.iou >= min_iou))
        ]
        if not self.rows:
            raise ValueError(
                f"'{output}' holds no fitted fields" + (" of that kind." if configuration or min_iou else ".")
            )
        found = sorted({row.configuration_hash or "" for row in self.rows})
        if len(found) > 1:
            raise ValueError(
                f"'{output}' holds fields of {len(found)} configurations; choose one: "
                + ", ".join(name[:8] for name in found[:8])
                + "."
            )
        self.field = self.load(0)
        self.layers = layers_of(self.field)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if isinstance(index, slice):
            raise TypeError(
                "an item of a FieldDataset is one field; for several take torch.utils.data.Subset(data, indices), "
                "or data.fields(indices) as one function."
            )
        row = self.rows[index]
        state = self._state(index)
        weights: Tensor | dict[str, Tensor]
        if self.weights == "layers":
            weights = {layer.name: state[f"network.{layer.name}"] for layer in self.layers}
        else:
            weights = torch.cat([state[f"network.{layer.name}"].reshape(-1) for layer in self.layers])
        return {
            "weights": weights,
            "index": index if index >= 0 else len(self) + index,
            "path": row.path,
            "iou": math.nan if row.iou is None else row.iou,
            "center": state["center"],
            "scale": state["scale"],
        }

    def load(self, index: int) -> SignedDistanceField:
        """One field by itself, as fast as any."""
        return SignedDistanceField.load(self._path(index))

    def initial(self) -> SignedDistanceField:
        """The weights that all fields started from, of a data set made with ``--shared-init``.

        Raises:
            ValueError: it was made without, or the file is gone or another configuration's.
        """
        from sasnet_ns.datasets.one import weights_hash

        row = self.rows[0]
        if row.initial_hash is None:
            raise ValueError(f"the fields of '{self.output}' did not start from the same weights (--shared-init).")
        path = initial_path(self.output, row.configuration_hash)
        if not path.exists():
            path = self.output / "initial.pt"  # as earlier versions called those of the last run
        sdf = SignedDistanceField.load(path)
        if weights_hash(sdf) != row.initial_hash:
            raise ValueError(
                f"'{path}' holds the first weights of another configuration; "
                "run fit-shapes with this one's options again, which writes them."
            )
        return sdf

    def fields(self, indices: Sequence[int]) -> FieldBatch:
        """Several fields as one function of (K, N, 3) points.

        Raises:
            ValueError: there is no index, a field's file is gone, or its network has other options than the others'.
        """
        if not len(indices):
            raise ValueError("there are no fields without indices; give at least one.")
        items = [self._state(index) for index in indices]
        names = [name for name in items[0] if name.startswith("network.")]
        states = {name.removeprefix("network."): torch.stack([item[name] for item in items]) for name in names}
        return FieldBatch(self.field, states)

    def fields_of(self, weights: Float[Tensor, "K P"]) -> FieldBatch:
        """Fields from flat weights, for example generated ones; differentiable with respect to them.

        Buffers (frozen frequencies) are those of the configuration.

        Raises:
            ValueError: there is no vector, they have not as many values as the network, or buffers differ from field
                to field.
        """
        size = self.layers[-1].stop
        if weights.ndim != 2 or weights.shape[1] != size or not len(weights):
            raise ValueError(f"weights must be (K, {size}) for this network, K at least 1, not {tuple(weights.shape)}.")
        if self._own_buffers:
            raise ValueError(
                f"flat weights alone do not make a field here: the frozen {', '.join(self._own_buffers)} differ from "
                "field to field; take fields(indices), or fit with --shared-init, which is enough for networks that do "
                "not look at the shape."
            )
        states = {layer.name: weights[:, layer.start : layer.stop].reshape(-1, *layer.shape) for layer in self.layers}
        buffers = {
            name: buffer.to(weights.dtype if buffer.is_floating_point() else buffer.dtype)
            for name, buffer in self.field.network.named_buffers()
        }
        return FieldBatch(self.field, states | {n: b.expand(len(weights), *b.shape) for n, b in buffers.items()})

    @functools.cached_property
    def _own_buffers(self) -> list[str]:
        """Names of buffers that are not the same in all fields."""
        kind = type(self.field.network)
        by_shape = kind.initialize_from is not Network.initialize_from or kind.on_step is not Network.on_step
        first = self._state(0)
        names = [name for name, _ in self.field.network.named_buffers() if f"network.{name}" in first]
        others = (i for i, row in enumerate(self.rows) if row.key != self.rows[0].key and self._path(i).exists())
        # Seeds are the same for all or for none, so one other field tells; what depends on the shape may differ late.
        for index in itertools.islice(others if names else (), None if by_shape else 1):
            state = self._state(index)
            found = [name for name in names if not torch.equal(state[f"network.{name}"], first[f"network.{name}"])]
            if found:
                return found
        return []

    def _path(self, index: int) -> Path:
        key = self.rows[index].key
        assert key is not None
        return field_path(self.output, key)

    def _state(self, index: int) -> dict[str, Tensor]:
        path = self._path(index)
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise ValueError(f"there is no field at '{path}'; fit its shape again.") from None
        own, first = content["description"]["network_config"], self.field.description["network_config"]
        names = [name for name in sorted({*own, *first}) if _text(own.get(name)) != _text(first.get(name))]
        if names:  # one configuration may give each shape a network of its own: spectrum: auto
            raise ValueError(
                f"the network of '{self.rows[index].path}' has other options ({', '.join(names)}) than that of "
                f"'{self.rows[0].path}', so they are not one set of weights; take load(index), one field at a time."
            )
        return content["state"]


def _text(option: object) -> str:
    """As the configuration's hash sees it: lists and tuples are the same."""
    return json.dumps(option, sort_keys=True, default=str)


def layers_of(sdf: SignedDistanceField) -> list[Layer]:
    """The trained tensors of a field's network and their places in the flat vector."""
    layers, start = [], 0
    for name, parameter in sdf.network.named_parameters():
        layers.append(Layer(name, tuple(parameter.shape), start, start + parameter.numel()))
        start += parameter.numel()
    return layers


class FieldBatch:
    """K fields of one architecture as one function.

    SASNet, SIREN, FINER, Gauss and ngp run on the kernels, all K in one call; other networks in plain torch under
    ``vmap``.

    Args:
        field: one of them, for the architecture.
        states: parameters and buffers of the network by name, each with a leading axis of K.
    """

    def __init__(self, field: SignedDistanceField, states: dict[str, Tensor]) -> None:
        self.states = states
        self._network = portable(field.network)

    @functools.cached_property
    def _form(self) -> StepForm | None:
        """All fields as one chain of layers; None where the network is no such chain."""
        form = step_form(self._network)
        if form is None:
            return None
        names = {id(tensor): name for name, tensor in self._network.state_dict(keep_vars=True).items()}
        return form.with_tensors([self.states[names[id(tensor)]] for tensor in form.tensors()])

    @functools.cached_property
    def _each(self) -> Callable[..., Tensor]:
        return vmap(lambda state, points: functional_call(self._network, state, (points,)))

    def __len__(self) -> int:
        return len(next(iter(self.states.values())))

    def to(self, device: torch.device | str) -> FieldBatch:
        """The same fields on another device."""
        moved = object.__new__(FieldBatch)
        moved.states = {name: tensor.to(device) for name, tensor in self.states.items()}
        moved._network = self._network
        return moved

    def __call__(self, points: Float[Tensor, "K N 3"] | Float[Tensor, "N 3"]) -> Float[Tensor, "K N"]:
        """Signed distances in box units, (K, N), in the precision of the weights as those of a single field.

        Args:
            points: box coordinates: (K, N, 3), points of its own for each field; or (N, 3), the same for all.

        Raises:
            ValueError: neither.
        """
        if points.ndim == 2 and points.shape[1] == 3:
            points = points.expand(len(self), -1, -1)
        if points.ndim != 3 or points.shape[0] != len(self) or points.shape[2] != 3:
            raise ValueError(f"points must be ({len(self)}, N, 3) or (N, 3), not {tuple(points.shape)}.")
        points = points.to(next(iter(self.states.values())).dtype)
        if self._form is None:
            return self._each(self.states, 2 * points)[..., 0]
        return evaluate(self._form, 2 * points, "auto")[..., 0]
