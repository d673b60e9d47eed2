"""From the files that scanners write to line integrals, weights and a projector. ``docs/scans.md`` is the page."""

from pnp_lip.scans.astra import geometry_from_astra
from pnp_lip.scans.center import det_offset_of, find_center, find_common_center, spread_over
from pnp_lip.scans.dicom import read_dicom
from pnp_lip.scans.hdf5 import read_hdf5
from pnp_lip.scans.matlab import read_matlab
from pnp_lip.scans.projections import Prepared, dead_bins, from_projections, line_integrals, without_stripes
from pnp_lip.scans.scan import Frames, Scan, check_theta
from pnp_lip.scans.tiff import read_frames, read_tiff

__all__ = [
    "Frames",
    "Prepared",
    "Scan",
    "check_theta",
    "dead_bins",
    "det_offset_of",
    "find_center",
    "find_common_center",
    "from_projections",
    "geometry_from_astra",
    "line_integrals",
    "read_dicom",
    "read_frames",
    "read_hdf5",
    "read_matlab",
    "read_tiff",
    "spread_over",
    "without_stripes",
]
