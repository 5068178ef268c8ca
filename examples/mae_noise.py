"""Guided masks for transformers' masked autoencoder, passed as its `noise`.

python examples/mae_noise.py
"""

import torch
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from semattn.masking import GuidedMasking, mask_images
from semattn.pretraining import add_positions

model = ViTMAEForPreTraining(ViTMAEConfig(image_size=96, num_hidden_layers=2, hidden_size=192,
                                          num_attention_heads=3))  # fmt: skip
add_positions(model)  # transformers 5 does not initialise them
policy = GuidedMasking(beta=2.0, mask_ratio=model.config.mask_ratio)  # masks keypoints first
pixel_values, names = torch.rand(4, 3, 96, 96), ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
masks = mask_images(pixel_values, policy, images=names, epoch=0, patch_size=16)
out = model(pixel_values, noise=masks.noise)
out.loss.backward()
print("loss", out.loss.item(), "same masks", bool((out.mask == masks.mask).all()))
