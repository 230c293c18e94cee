"""Sizes under upstream's names, and refused ones."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from extraction.errors import InputError
from extraction.imagebind import MODALITIES, ImageBind, ImageBindConfig


def test_huge_is_the_official_checkpoint_key_by_key_and_shape_by_shape(parity):
    layout = json.loads((parity / "imagebind_huge_layout.json").read_text())
    with torch.device("meta"):
        model = ImageBind(ImageBindConfig.huge())
    state = model.state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == layout["shapes"]
    assert len(state) == layout["tensors"] == 1311
    assert sum(value.numel() for value in state.values()) == layout["elements"]
    assert {str(value.dtype) for value in state.values()} == {"torch.float32"}
    assert {name for name, _ in model.named_buffers()} == set(layout["buffers"])


def test_upstream_s_constructor_arguments_are_taken_as_they_are(parity):
    values = json.loads((parity / "small_config.json").read_text())["config"]
    config = ImageBindConfig.from_dict(values)
    assert config.kernel_size == (2, 28, 28)
    assert config.tower("thermal") == (24, 2, 4)
    assert (config.image_size, config.vocab_size, config.context_length) == (224, 49408, 77)
    assert config.modalities == MODALITIES
    assert {name: config.to_dict()[name] for name in values} == values


@given(
    modalities=st.lists(st.sampled_from(MODALITIES), min_size=1, unique=True),
    side=st.integers(1, 32),
    heads=st.integers(1, 8),
    depth=st.integers(1, 8),
)
def test_a_configuration_survives_json(modalities, side, heads, depth):
    config = ImageBindConfig.from_dict(
        {
            "modalities": modalities,
            "kernel_size": [2, side, side],
            "imu_num_heads": heads,
            "imu_embed_dim": heads * 16,
            "text_num_blocks": depth,
        }
    )
    assert ImageBindConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"vision_embed_dims": 4},
            "unknown key 'vision_embed_dims'; the nearest known key is 'vision_embed_dim'",
        ),
        ({"text_num_blocks": 0}, "text_num_blocks must be a positive whole number, not 0"),
        ({"text_num_heads": "16"}, "text_num_heads must be a positive whole number, not '16'"),
        ({"audio_num_heads": 7}, "audio_embed_dim 768 cannot be divided among audio_num_heads 7"),
        ({"kernel_size": [2, 14, 16]}, r"kernel_size must be \[frames, side, side\], not \[2, 14, 16\]"),
        ({"kernel_size": 14}, r"kernel_size must be \[frames, side, side\], not 14"),
        ({"kernel_size": [1, 14, 14]}, r"kernel_size\[0\] must be 2"),
        ({"video_frames": 4}, "video_frames and .* must be 2"),
        ({"imu_kernel_size": 16}, "imu_kernel_size 8, not 2, 2 and 16"),
        ({"modalities": ["vision", "smell"]}, "modalities must name some of vision, .*'smell'"),
        ({"modalities": ["vision", "vision"]}, "each once"),
        ({"modalities": []}, "modalities must name some of"),
        ({"modalities": "vision"}, "modalities must name some of"),
        ({"image_size": 8}, "the vision input of 8 is smaller than its patch of 14"),
        ({"audio_target_len": 10}, "the audio input of 10 is smaller than its patch of 16"),
    ],
)
def test_impossible_sizes_are_refused_with_a_sentence(values, sentence):
    with pytest.raises(InputError, match=sentence):
        ImageBindConfig.from_dict(values)
