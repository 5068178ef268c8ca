"""Guided masks for transformers' masked autoencoder, passed as its `noise`.

python examples/mae_noise.py
"""

import torch
from skimage import data
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from semattn.masking import GuidedMasking, mask_images
from semattn.pretraining import add_positions

model = ViTMAEForPreTraining(ViTMAEConfig(image_size=96, num_hidden_layers=2, hidden_size=192,
                                          num_attention_heads=3))  # fmt: skip
add_positions(model)  # transformers 5 does not initialise them
policy = GuidedMasking(beta=2.0, mask_ratio=model.config.mask_ratio)  # masks keypoints first
photo = torch.from_numpy(data.astronaut()).permute(2, 0, 1) / 255  # (3, 512, 512)
pixel_values = photo.unfold(1, 96, 200).unfold(2, 96, 200).flatten(1, 2).transpose(0, 1)  # 9 parts
names = [f"part-{number}" for number in range(len(pixel_values))]
masks = mask_images(pixel_values, policy, images=names, epoch=0, patch_size=16)
out = model(pixel_values, noise=masks.noise)
out.loss.backward()
print("loss", out.loss.item(), "same masks", bool((out.mask == masks.mask).all()))
