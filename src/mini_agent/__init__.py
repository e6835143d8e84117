"""A telemetry agent that runs beside an application and loses nothing it acknowledged."""

__version__ = "0.1.0"
