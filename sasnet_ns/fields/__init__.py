"""nerfstudio fields on any network of the registry: SDF fields (NeuS family) and density fields (nerfacto family)."""

from sasnet_ns.fields.density_field import ProposalField, SASNetDensityField
from sasnet_ns.fields.sdf_field import SASNetSDFField, SASNetSDFFieldConfig

__all__ = ["ProposalField", "SASNetDensityField", "SASNetSDFField", "SASNetSDFFieldConfig"]
