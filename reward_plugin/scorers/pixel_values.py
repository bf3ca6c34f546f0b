"""Pictures as the tensors that CLIP-like models take, the way the published scorers prepare them.

Shapes: n pictures, S the side that the model sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image

if TYPE_CHECKING:
    import torch

#: RGB mean and standard deviation of OpenAI's CLIP, for values 0 to 1.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def centre_square(image: PIL.Image.Image, size: int) -> PIL.Image.Image:
    """Shorter side to `size` by PIL's bicubic, then the middle: torchvision's Resize and CenterCrop.

    transformers' CLIP image processor differs by one pixel where an odd number of pixels is cut away.
    """
    width, height = image.size
    short = min(width, height)
    new = (int(size * width / short), int(size * height / short))
    if new != image.size:
        image = image.resize(new, PIL.Image.Resampling.BICUBIC)
    left, top = round((new[0] - size) / 2), round((new[1] - size) / 2)
    return image.crop((left, top, left + size, top + size))


def letterbox(image: PIL.Image.Image, size: int) -> torch.Tensor:
    """Longer side to `size`, the rest black: float [3, S, S] from 0 to 1, bicubic overshoot not cut off.

    HPSv2's ResizeMaxSize: the picture is resized as a float tensor, with antialiasing since torchvision 0.17.
    """
    import torch
    from torch.nn import functional as F

    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    height, width = tensor.shape[1:]
    scale = size / max(height, width)
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    if (new_height, new_width) != (height, width):
        tensor = F.interpolate(
            tensor[None], (new_height, new_width), mode="bicubic", align_corners=False, antialias=True
        )[0]
    left, top = (size - new_width) // 2, (size - new_height) // 2
    return F.pad(tensor, (left, size - new_width - left, top, size - new_height - top))


def to_tensor(images: Sequence[PIL.Image.Image]) -> torch.Tensor:
    """Pictures of one size as float [n, 3, H, W], 0 to 1."""
    import torch

    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2) / 255


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Values 0 to 1 to what CLIP was trained on: minus its mean, over its standard deviation."""
    return (pixels - pixels.new_tensor(MEAN)[:, None, None]) / pixels.new_tensor(STD)[:, None, None]
