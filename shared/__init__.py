"""What cloud and device agree on: definitions, wire formats and arithmetic. No input or output happens here."""

__version__ = "0.1.0"
