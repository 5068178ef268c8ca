"""Guided masks and KAMIM's loss weights for models with `bool_masked_pos`: SimMIM, BEiT.

python examples/simmim_masks.py
"""

import torch
from skimage import data
from transformers import ViTConfig, ViTForMaskedImageModeling

from semattn.masking import GuidedMasking, mask_images

model = ViTForMaskedImageModeling(ViTConfig(image_size=96, num_hidden_layers=2, hidden_size=192,
                                            num_attention_heads=3))  # fmt: skip
photo = torch.from_numpy(data.astronaut()).permute(2, 0, 1) / 255  # (3, 512, 512)
pixel_values = photo.unfold(1, 96, 200).unfold(2, 96, 200).flatten(1, 2).transpose(0, 1)  # 9 parts
masks = mask_images(pixel_values, GuidedMasking(0.6, beta=2.0), loss_weight="kamim")
out = model(pixel_values, bool_masked_pos=masks.bool_masked_pos)
error = (out.reconstruction - pixel_values).abs().mean(1)  # (B, H, W)
error = torch.nn.functional.avg_pool2d(error, 16).flatten(1)  # (B, P)
loss = (error * masks.mask * masks.loss_weight).sum() / masks.mask.sum()
loss.backward()
print("SimMIM's loss", out.loss.item(), "weighted as in KAMIM", loss.item())
