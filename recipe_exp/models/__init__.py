"""Networks: loading, adapters, loss, export."""

import logging

# On a CPU bitsandbytes tells of kernels that it could download, whichever library imports it.
logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)
