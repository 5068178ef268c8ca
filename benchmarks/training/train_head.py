"""Train the head of the embedded model: ``python -m benchmarks.training.train_head``.

The patch embedding and all blocks but the last are frozen. Low-rank changes to the linear layers of
the last blocks, the last norm, and a linear head on the class token are trained. The input of the
first changed block is computed once for every image and stored, so that an epoch costs a fraction
of a pass through the model. The epoch is chosen on validation scenes and validation objects; the
test splits are opened once, through `semattn.load`, after the weights have been written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageFilter
from safetensors.torch import save
from torch import Tensor, nn

import semattn
from benchmarks import RESULTS_DIR
from semattn.utils.atomic_files import write_text
from semattn.zoo import DEFAULT, cache_dir
from semattn.zoo.weights import DIGEST, backbone

from ..datasets.objects_on_scenes import NAMES, ObjectsOnScenes, Placement
from ..datasets.objects_on_scenes.fetch import default_root
from .measure_head import accuracy_on, normalise, photographs
from .model_card import card

RESULT = RESULTS_DIR / "train_head.json"
DATA = Path(semattn.__file__).parent / "zoo" / "assets"
PART = 520
"""Images whose tokens are stored in one file (100 MB)."""


@dataclass(frozen=True)
class Recipe:
    """All parameters of the training."""

    images: int = 4160
    validation: int = 390
    test: int = 1040
    blocks: int = 2
    rank: int = 8
    epochs: int = 3
    batch: int = 32
    rate: float = 1e-3
    decay: float = 0.05
    smoothing: float = 0.1
    scale: tuple[float, float] = (0.25, 1.8)
    visible: float = 0.4
    seed: int = 0


class LowRank(nn.Module):
    """Frozen linear layer with a trained change of low rank: y = W x + b + U D x."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, linear.in_features) / linear.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer and its change."""
        return self.linear(x) + x @ self.down.T @ self.up.T


class Tail(nn.Module):
    """Last blocks, norm and head, applied to the tokens that enter these blocks."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        model.requires_grad_(False)
        self.blocks = model.blocks[-recipe.blocks :]
        self.norm = model.norm.requires_grad_(True)
        self.head = nn.Linear(model.embed_dim, len(NAMES))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        for block in self.blocks:
            block.attn.qkv = LowRank(block.attn.qkv, recipe.rank)
            block.attn.proj = LowRank(block.attn.proj, recipe.rank)
            block.mlp.fc1 = LowRank(block.mlp.fc1, recipe.rank)
            block.mlp.fc2 = LowRank(block.mlp.fc2, recipe.rank)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (B, K) of tokens (B, N, D); of the last block only the class token."""
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        last, attention = self.blocks[-1], self.blocks[-1].attn
        q, k, v = (
            part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
            for part in attention.qkv(last.norm1(tokens)).chunk(3, dim=-1)
        )
        attended = F.scaled_dot_product_attention(q[:, :, :1], k, v, scale=attention.scale)
        x = tokens[:, 0] + last.ls1(attention.proj(attended.flatten(1)))
        x = x + last.ls2(last.mlp(last.norm2(x)))
        return self.head(self.norm(x))

    def changes(self) -> dict[str, Tensor]:
        """Return the trained tensors under the model's parameter names, in half precision."""
        changes = {f"head.{name}": value for name, value in self.head.named_parameters()}
        changes |= {f"norm.{name}": value for name, value in self.norm.named_parameters()}
        for name, module in self.blocks.named_modules():
            if isinstance(module, LowRank):
                weight_name = f"blocks.{name}.weight"  # a slice of blocks keeps their numbers
                changes |= {f"{weight_name}.down": module.down, f"{weight_name}.up": module.up}
        return {name: value.detach().half().contiguous() for name, value in changes.items()}


def augment(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change side, light, colour and sharpness at random; sometimes use a plain background."""
    if rng.random() < 0.15:
        image = np.where(mask[..., None], image, rng.integers(0, 256, 3, dtype=np.uint8))
    picture = Image.fromarray(image)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = change(picture).enhance(rng.uniform(0.6, 1.4))
    if rng.random() < 0.1:
        picture = picture.convert("L").convert("RGB")
    if rng.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 2.0)))
    return np.asarray(picture)


def compositions(root: Path, split: str, recipe: Recipe) -> ObjectsOnScenes:
    """Return the data of a split; training uses a wider range of object sizes."""
    if split == "train":
        wide = Placement(scale=recipe.scale, visible=recipe.visible, enlarge=2.5)
        return ObjectsOnScenes(root, split, count=recipe.images, seed=recipe.seed, placement=wide)
    return ObjectsOnScenes(root, split, count=recipe.validation, seed=recipe.seed)


def picture(data: ObjectsOnScenes, index: int) -> np.ndarray:
    """Return image `index`, changed at random for training only."""
    item = data[index]
    if data.split != "train":
        return item.image
    return augment(item.image, item.mask, np.random.default_rng((data.seed, index)))


@torch.inference_mode()
def tokens_of(model: nn.Module, data: ObjectsOnScenes, first: int, work: Path) -> Tensor:
    """Return the tokens (n, N, D) that enter block `first`, in half precision.

    They are stored in `work`, in parts, so that an interrupted run resumes.
    """
    about = [DIGEST, data.split, data.seed, first, str(data.placement), data.size]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
    work.mkdir(parents=True, exist_ok=True)
    device = model.pos_embed.device
    parts = []
    for start in range(0, len(data), PART):
        stop = min(start + PART, len(data))
        path = work / f"{data.split}-{key}-{start}-{stop}.npy"
        if not path.exists():
            batches = []
            for low in range(start, stop, 32):
                batch = [picture(data, index) for index in range(low, min(low + 32, stop))]
                x = model.patch_embed(normalise(batch, model).to(device))
                x = model.norm_pre(model.patch_drop(model._pos_embed(x)))
                batches.append(model.blocks[:first](x).half().cpu())
            partial = path.with_suffix(".part.npy")
            np.save(partial, torch.cat(batches).numpy())
            partial.replace(path)
            print(f"{data.split}: {stop} of {len(data)} images", flush=True)
        parts.append(torch.from_numpy(np.load(path)))
    return torch.cat(parts)


def labels_of(data: ObjectsOnScenes) -> Tensor:
    """Return the labels (n,) of a split's images, in order."""
    labels = list(data.objects)
    return torch.tensor([labels[index % len(labels)] for index in range(len(data))])


def train(root: Path, recipe: Recipe, work: Path, device: str) -> tuple[dict[str, Tensor], list]:
    """Return the changes of the best epoch on validation, and the history of all epochs."""
    torch.manual_seed(recipe.seed)
    model = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=518).eval()
    model.load_state_dict(backbone(), strict=True)
    model.set_input_size((224, 224))
    model.to(device)
    first = len(model.blocks) - recipe.blocks
    splits = {}
    for split in ("train", "validation", "validation-objects"):
        data = compositions(root, split, recipe)
        splits[split] = (tokens_of(model, data, first, work), labels_of(data).to(device))
    tokens, labels = splits.pop("train")
    tail = Tail(model, recipe).to(device)
    trained = [parameter for parameter in tail.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe.rate, weight_decay=recipe.decay)
    steps = recipe.epochs * -(-len(tokens) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.rate, total_steps=steps, pct_start=0.1
    )
    history: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    for epoch in range(1, recipe.epochs + 1):
        losses = []
        for indices in torch.randperm(len(tokens)).split(recipe.batch):
            logits = tail(tokens[indices].to(device).float())
            loss = F.cross_entropy(logits, labels[indices], label_smoothing=recipe.smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        row = {"epoch": epoch, "loss": round(float(np.mean(losses)), 4)}
        row |= {split: round(accuracy(tail, *data, device), 4) for split, data in splits.items()}
        print(row, flush=True)
        history.append(row)
        if quality(row) == max(map(quality, history)):
            best = tail.changes()
    return best, history


def quality(row: dict[str, float]) -> float:
    """Return the criterion of the epoch: the mean over learned and new objects on new scenes."""
    return (row["validation"] + row["validation-objects"]) / 2


@torch.inference_mode()
def accuracy(tail: Tail, tokens: Tensor, labels: Tensor, device: str) -> float:
    """Return the fraction of images whose greatest logit is that of the label."""
    predictions = [tail(part.to(device).float()).argmax(dim=1) for part in tokens.split(64)]
    return float((torch.cat(predictions) == labels).float().mean())


def main() -> None:
    """Train, write the weights, evaluate them, and write the model card."""
    parser = argparse.ArgumentParser(description="Train the head of the embedded model.")
    parser.add_argument(
        "--root", type=Path, default=default_root(), help="folder of the fetched data"
    )
    parser.add_argument(
        "--work", type=Path, default=cache_dir() / "train-head", help="folder for stored tokens"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    recipe = Recipe()
    changes, history = train(arguments.root, recipe, arguments.work, arguments.device)
    (DATA / f"{DEFAULT}.safetensors").write_bytes(save(changes))
    (DATA / "classes.json").write_text(json.dumps(NAMES, indent=2) + "\n")
    result = {
        "model": DEFAULT,
        "backbone": DIGEST,
        "recipe": asdict(recipe),
        "bytes": (DATA / f"{DEFAULT}.safetensors").stat().st_size,
        "history": history,
        "chosen": max(history, key=quality),
        **{
            split: accuracy_on(arguments.root, split, recipe.test, recipe.seed, arguments.device)
            for split in ("test", "unseen-objects")
        },
        "photographs": photographs(arguments.root, arguments.device),
        "versions": {"torch": torch.__version__, "timm": timm.__version__},
    }
    RESULT.parent.mkdir(exist_ok=True)
    write_text(RESULT, json.dumps(result, indent=1) + "\n")
    (DATA / "MODEL_CARD.md").write_text(card(result))
    print(card(result))


if __name__ == "__main__":
    main()
