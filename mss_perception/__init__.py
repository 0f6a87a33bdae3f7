"""mss_perception: semantic segmentation for robots and vehicles that keeps working when sensors drop."""

__version__ = "0.1.0"
