"""Infinitely wide networks as kernels of GPJax.

They are imported from here, `from eqtangents.gpjax import NetworkKernel`, and need
GPJax: `pip install 'eqtangents[gpjax]'`.
"""

from eqtangents.gpjax._network_kernel import NetworkKernel as NetworkKernel
