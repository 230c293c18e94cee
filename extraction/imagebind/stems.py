"""From a modality's input to the tokens that enter its transformer (upstream calls these preprocessors)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from extraction.imagebind.config import ImageBindConfig
from extraction.imagebind.inputs import IMU_CHANNELS, IMU_SAMPLES

STEM_NORM_EPS = 1e-5  # torch's default; every other norm of ImageBind has 1e-6


class ClipConv(nn.Conv3d):
    """Patches of a two-frame clip; a still image is two equal frames, so its kernel is summed over time."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, T, H, W] with T 1 or 2, or [B, 3, H, W] -> [B, D, h, w]."""
        if x.ndim == 5 and x.shape[2] == 2:
            return super().forward(x).squeeze(2)
        return F.conv2d(x.flatten(1, -3), self.weight.sum(2), stride=self.stride[1:])


class PatchStem(nn.Module):
    """A bias-free projection of patches, flattened row by row, and a norm for all but vision."""

    def __init__(self, proj: nn.Module, norm: nn.Module):
        super().__init__()
        self.proj = proj
        self.norm_layer = norm

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, (T,) H, W] -> [B, patches, D]."""
        return self.norm_layer(self.proj(x).flatten(2).transpose(1, 2))


class Positions(nn.Module):
    """Learned positions of the CLS token and of a grid of patches."""

    def __init__(self, patches: int, width: int):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + patches, width))

    def forward(self, patches: int) -> Tensor:
        """[1, 1 + patches, D]; a square grid of another size than the learned one is interpolated."""
        cls, grid = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        if grid.shape[1] == patches:
            return self.pos_embed
        old, new = math.isqrt(grid.shape[1]), math.isqrt(patches)
        image = (
            grid.unflatten(1, (old, old)).permute(0, 3, 1, 2).float()
        )  # as upstream, in bfloat16 models too
        image = F.interpolate(image, size=(new, new), mode="bicubic", align_corners=False)
        return torch.cat([cls, image.flatten(2).transpose(1, 2).to(cls.dtype)], dim=1)


class GridPreprocessor(nn.Module):
    """Patches of a grid behind a CLS token, positions added: vision, audio, depth and thermal."""

    def __init__(self, stem_name: str, stem: PatchStem, patches: int, width: int):
        super().__init__()
        self.stem_name = stem_name  # the official name differs between modalities
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.add_module(stem_name, stem)
        self.pos_embedding_helper = Positions(patches, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, (T,) H, W] -> [B, 1 + patches, D]; what fills no patch, right and bottom, is cut."""
        patches = self.get_submodule(self.stem_name)(x.to(self.cls_token.dtype))
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), patches], dim=1)
        return tokens + self.pos_embedding_helper(patches.shape[1])


class TextPreprocessor(nn.Module):
    """Token embeddings plus positions; no CLS token.

    `mask` exists because the official file has it: attention is causal by construction and never reads it.
    """

    def __init__(self, vocab_size: int, context_length: int, width: int):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.empty(1, context_length, width))
        # On the CPU even where the rest is on the meta device, whose `triu` takes two seconds to import.
        mask = torch.full((context_length, context_length), -math.inf, device="cpu").triu(1)
        self.register_buffer("mask", mask)
        self.token_embedding = nn.Embedding(vocab_size, width)

    def forward(self, ids: Tensor) -> Tensor:
        """[B, L] -> [B, L, D]."""
        return self.token_embedding(ids) + self.pos_embed[:, : ids.shape[1]]


class MotionStem(nn.Module):
    """Windows of samples, each flattened channel by channel, through a bias-free linear layer and a norm."""

    def __init__(self, window: int, width: int):
        super().__init__()
        self.window = window
        self.proj = nn.Linear(IMU_CHANNELS * window, width, bias=False)
        self.norm_layer = nn.LayerNorm(width, eps=STEM_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 6, samples] -> [B, samples / window, D]."""
        windows = x.unfold(-1, self.window, self.window).transpose(1, 2)  # [B, windows, 6, window]
        return self.norm_layer(self.proj(windows.flatten(2)))


class MotionPreprocessor(nn.Module):
    """Records of an inertial measurement unit (IMU): windows behind a CLS token, positions added."""

    def __init__(self, window: int, width: int):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + IMU_SAMPLES // window, width))
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.imu_stem = MotionStem(window, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 6, 2000] -> [B, 251, D]."""
        windows = self.imu_stem(x.to(self.cls_token.dtype))
        return torch.cat([self.cls_token.expand(len(x), -1, -1), windows], dim=1) + self.pos_embed


def build_preprocessor(modality: str, config: ImageBindConfig) -> nn.Module:
    """The preprocessor of one modality, its parameters under the official names."""
    width, size = config.tower(modality).width, config.image_size
    if modality == "text":
        return TextPreprocessor(config.vocab_size, config.context_length, width)
    if modality == "imu":
        return MotionPreprocessor(config.imu_kernel_size, width)
    if modality == "vision":
        kernel = config.kernel_size
        conv = ClipConv(3, width, kernel_size=kernel, stride=kernel, bias=False)
        # Index 0 is upstream's weightless repetition of a still image, which ClipConv makes unnecessary.
        stem = PatchStem(nn.Sequential(nn.Identity(), conv), norm=nn.Identity())
        return GridPreprocessor("rgbt_stem", stem, (size // kernel[1]) ** 2, width)
    if modality == "audio":
        grid = (config.audio_num_mel_bins, config.audio_target_len)
        side, stride = config.audio_kernel_size, config.audio_stride
    else:
        grid = (size, size)
        side = stride = getattr(config, f"{modality}_kernel_size")
    conv2d = nn.Conv2d(1, width, side, stride=stride, bias=False)
    stem = PatchStem(conv2d, norm=nn.LayerNorm(width, eps=STEM_NORM_EPS))
    patches = math.prod((length - side) // stride + 1 for length in grid)
    return GridPreprocessor("depth_stem" if modality == "depth" else "rgbt_stem", stem, patches, width)
