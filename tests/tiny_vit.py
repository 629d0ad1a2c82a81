"""A random ViT of DINO's kind of a few thousand weights, in a folder as the real one."""

import torch


def write_vit(folder, size=32, patch=8, seed=0):
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=32,
        image_size=size,
        patch_size=patch,
        initializer_range=0.3,
    )
    model = ViTModel(config, add_pooling_layer=False).eval()
    model.save_pretrained(folder)
    return model
