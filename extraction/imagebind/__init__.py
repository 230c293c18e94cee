"""ImageBind (Girdhar et al., CVPR 2023): six encoders into one embedding space."""

from extraction.imagebind.config import MODALITIES, ImageBindConfig
from extraction.imagebind.model import ImageBind

__all__ = ["MODALITIES", "ImageBind", "ImageBindConfig"]
