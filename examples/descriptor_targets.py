"""Descriptors as the target of masked pre-training, in a training loop of your own.

    python examples/descriptor_targets.py

A ViT of timm sees a mask token in place of three quarters of the patches (the form of SimMIM). A
linear head predicts the dense RootSIFT descriptor of each hidden patch.
"""

import timm
import torch
from skimage.data import astronaut

from semattn.masking import RandomMasking, mask_images, masked_target_loss, output_length

torch.manual_seed(0)
picture = torch.from_numpy(astronaut()).permute(2, 0, 1) / 255  # (3, 512, 512), RGB in [0, 1]
images = picture.unfold(1, 64, 64).unfold(2, 64, 64).permute(1, 2, 0, 3, 4).reshape(-1, 3, 64, 64)

encoder = timm.create_model("vit_tiny_patch16_224", img_size=64, patch_size=8, num_classes=0)
mask_token = torch.nn.Parameter(torch.zeros(encoder.embed_dim))
head = torch.nn.Linear(encoder.embed_dim, output_length("sift", patch_size=8))
optimizer = torch.optim.AdamW([*encoder.parameters(), mask_token, *head.parameters()], lr=1e-3)

for epoch in range(5):
    masks = mask_images(images, RandomMasking(0.75), epoch=epoch, patch_size=8, target="sift")
    hidden = masks.mask[..., None]  # (B, P, 1), 1 for hidden patches
    tokens = encoder.patch_embed(images)
    tokens = encoder._pos_embed(tokens * (1 - hidden) + mask_token * hidden)
    predicted = head(encoder.norm(encoder.blocks(tokens))[:, encoder.num_prefix_tokens :])
    loss = masked_target_loss(predicted, masks.target, masks.mask)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(f"epoch {epoch}: loss {loss.item():.4f}")
