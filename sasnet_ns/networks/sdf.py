"""A network as a signed distance field in box units, with the way back to the shape's own units."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sasnet_ns.networks.fused import in_one_pass, network_values
from sasnet_ns.networks.packing import RUN, SCALES, pack_state, unpack_state
from sasnet_ns.networks.registry import build_network
from sasnet_ns.networks.weights import (
    plain_numbers,
    read_safetensors,
    read_weights,
    save_safetensors,
    save_weights,
)
from sdf_tools.errors import MissingLibraryError


class SignedDistanceField(nn.Module):
    """Signed distance in box units, negative inside: a network on [-1, 1]^3 behind box coordinates [-0.5, 0.5]^3.

    Its ``state_dict`` holds the similarity ``box = (world - center) * scale``, so a checkpoint alone is enough to put a
    mesh back where the input was.

    Args:
        network: registry name.
        network_config: options for :func:`sasnet_ns.networks.build_network`.
        center: (3,) world coordinates of the box centre.
        scale: box units per world unit.
    """

    center: Tensor
    scale: Tensor

    def __init__(
        self,
        network: str = "sasnet",
        network_config: dict[str, Any] | None = None,
        center: Float[Tensor, "3"] | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.description = {"network": network, "network_config": plain_numbers(dict(network_config or {}))}
        self.network = build_network(network, in_dim=3, out_dim=1, **(network_config or {}))
        output = self.network.output_layer()
        if output is not None and output.bias is not None:
            # torch draws it up to the size of the distances themselves. Masks that first have to take such a constant
            # away do not come back from it: up to a third more error at the end (docs/choosing.md).
            nn.init.zeros_(output.bias)
        self.register_buffer("center", torch.zeros(3, dtype=torch.float64) if center is None else center.double())
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float64))

    def _apply(self, fn: Any, recurse: bool = True) -> SignedDistanceField:
        """Of ``float()``, ``half()`` and the like; where the shape is stays in float64, or meshes would be moved."""
        frame = {"center": self.center, "scale": self.scale}
        super()._apply(fn, recurse)
        for name, value in frame.items():
            moved = getattr(self, name)
            if moved.dtype != torch.float64 and not value.is_meta:
                setattr(self, name, value.to(moved.device))
        return self

    def forward(self, points: Float[Tensor, "*batch 3"], bands: int | None = None) -> Float[Tensor, "*batch"]:
        """Signed distance in box units at (..., 3) box coordinates.

        Args:
            points: box coordinates.
            bands: of a SASNet, use the low group and only this many high bands; None uses all.
        """
        return network_values(self.network, points, bands, scale=2.0)[..., 0]

    @property
    def points_at_once(self) -> int | None:
        """Points a call that suit it, where one compiled pass treats them in blocks anyway; None for no wish."""
        return 65_536 if in_one_pass(self.network) else None

    def value_and_gradient(
        self, points: Float[Tensor, "*batch 3"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch 3"]]:
        """Signed distance and its gradient (no units) at (..., 3) box coordinates, both differentiable again."""
        values, jacobian = self.network.value_and_gradient(2 * points)
        return values[..., 0], 2 * jacobian[..., 0, :]

    def save(self, path: Path | str, step: int | None = None, bits: int = 32) -> None:
        """Write the field; the file appears whole or not at all.

        Args:
            path: ``.safetensors`` (weights, and a JSON description in the metadata, which other frameworks read too),
                or anything else for a file that ``torch.load(weights_only=True)`` accepts.
            step: training steps done, kept in the file where it is known.
            bits: of the trained weights: 32, 16 (half precision), or 8 (deflated, see
                :mod:`sasnet_ns.networks.packing`), a quarter of the file or less and somewhat farther off.

        Raises:
            ValueError: another number of bits.
            MissingLibraryError: .safetensors without safetensors.
        """
        trained = [name for name, _ in self.named_parameters()]
        state = pack_state(self.state_dict(), trained, bits)
        if Path(path).suffix == ".safetensors":
            frame = {"center": self.center.tolist(), "scale": float(self.scale)}
            save_safetensors(path, {**self.description, **frame, "step": step}, state)
            return
        content = {"description": self.description, "state": state}
        save_weights(path, content if step is None else {**content, "step": step})

    @classmethod
    def load(cls, path: Path | str, device: torch.device | str = "cpu") -> SignedDistanceField:
        """Read a field written by :meth:`save`: its file, or the folder or ``config.yml`` of the run that holds it.

        Raises:
            ValueError: the file is missing or is not such a field.
            MissingLibraryError: .safetensors without safetensors.
        """
        return cls.load_with_step(path, device)[0]

    @classmethod
    def load_with_step(
        cls, path: Path | str, device: torch.device | str = "cpu"
    ) -> tuple[SignedDistanceField, int | None]:
        """As :meth:`load`, with the training steps that the file says it has had."""
        path = Path(path)
        if path.is_dir() or path.suffix == ".yml" or path.name == "run.json":
            path = (path if path.is_dir() else path.parent) / "field.pt"
        try:
            if path.suffix == ".safetensors":
                description, state = read_safetensors(path, device)
                step = description.get("step")
            else:
                content = read_weights(path, device)
                description, state, step = content["description"], content["state"], content.get("step")
            with _NoLargerThan(sum(v.numel() * (RUN if k.endswith(SCALES) else 1) for k, v in state.items())):
                field = cls(description["network"], description["network_config"])
            field.load_state_dict(unpack_state(state, field.state_dict()))
        except FileNotFoundError as error:
            raise ValueError(f"there is no field at '{path}'.") from error
        except MissingLibraryError:
            raise
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".: ")
            raise ValueError(f"'{path}' is not a field written by SignedDistanceField.save: {reason}.") from error
        return field.to(device), step if isinstance(step, int) else None


class _NoLargerThan(TorchFunctionMode):
    """While a network is built from a file's description: no more numbers than the file's weights give reason for.

    Without it a few bytes that say ``width: 100000`` take 40 GB before the weights turn out not to fit.

    Args:
        count: numbers in the file.
    """

    MAKERS = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)

    def __init__(self, count: int) -> None:
        super().__init__()
        self._left = 4 * count + (1 << 22)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.MAKERS:
            size = kwargs.get("size", args[0] if args and isinstance(args[0], (tuple, list)) else args)
            self._left -= math.prod(int(n) for n in size)
            if self._left < 0:
                raise ValueError("its description asks for a network that is much larger than its weights")
        return func(*args, **kwargs)
