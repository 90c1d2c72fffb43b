"""HTTP in, HTTP out: the gateway never sees a tensor."""

__version__ = "0.1.0"
