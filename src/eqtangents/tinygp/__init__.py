"""Infinitely wide networks as kernels of tinygp.

They are imported from here, `from eqtangents.tinygp import NetworkKernel`, and need
tinygp: `pip install 'eqtangents[tinygp]'`.
"""

from eqtangents.tinygp._network_kernel import NetworkKernel as NetworkKernel
