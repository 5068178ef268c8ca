"""transformers' `Trainer` with our data, order and loss; all else is its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers import Trainer, TrainingArguments

from .checkpoints import CHECKPOINTS
from .data import Order
from .reconstruction import masked_loss

BASE_BATCH = 256  # images; learning rates are given for it and scaled with the batch
BETAS = (0.9, 0.95)  # of AdamW, as in MAE
LOG_STEPS = 50  # steps between lines of the log, in epochs that are longer
WAIT = 7 * 24 * 3600  # seconds that processes wait for the one that finds keypoints


class MaskedTrainer(Trainer):
    """A `Trainer` of masked autoencoders: weighted loss, keyed order."""

    def __init__(self, *given: Any, order: Order, **more: Any) -> None:
        super().__init__(*given, **more)
        self.order = order
        self.can_return_loss = True  # evaluation has no labels
        self.model_accepts_loss_kwargs = False  # the model takes them and ignores them

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[Any]:
        return self.order

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # transformers 5 writes some weights under their names of version 4, and its trainer reads
        # the file as it is and leaves out what has another name. `from_pretrained` knows both.
        own: Any = self.model if model is None else model
        there = type(own).from_pretrained(resume_from_checkpoint, local_files_only=True)
        own.load_state_dict(there.state_dict())

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The model's own loss, or the weighted one where the data weighs patches."""
        pixels, weight = inputs["pixel_values"], inputs.get("loss_weight")
        out = model(pixel_values=pixels, noise=inputs["noise"])
        loss = out.loss
        if weight is not None:
            own = self.accelerator.unwrap_model(model)
            loss = masked_loss(
                out.logits, own.patchify(pixels), out.mask, weight, own.config.norm_pix_loss
            )
        return (loss, out) if return_outputs else loss


def training_arguments(
    out: Path,
    *,
    epochs: int,
    batch_size: int,
    processes: int,
    learning_rate: float,
    weight_decay: float,
    workers: int,
    precision: str,
    device: str,
    keep: int,
    evaluates: bool,
    seed: int,
) -> TrainingArguments:
    """Return transformers' arguments of a run, but for those that `set_steps` sets.

    Parameters
    ----------
    batch_size : images of one step, in all processes
    learning_rate : for a batch of 256; it is scaled
    device : "cpu", or "auto": what the machine has
    """
    made = TrainingArguments(
        output_dir=str(out / CHECKPOINTS),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size // processes,
        per_device_eval_batch_size=batch_size // processes,
        learning_rate=learning_rate * batch_size / BASE_BATCH,
        weight_decay=weight_decay,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        lr_scheduler_type="cosine",
        max_grad_norm=0.0,  # MAE does not clip
        bf16=precision == "bfloat16",
        fp16=precision == "float16",
        use_cpu=device == "cpu" or not torch.cuda.is_available(),
        dataloader_drop_last=True,
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
        dataloader_pin_memory=device != "cpu" and torch.cuda.is_available(),
        logging_strategy="steps",
        save_strategy="steps",
        save_total_limit=keep,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=1 if evaluates else None,
        prediction_loss_only=True,
        remove_unused_columns=False,
        label_names=[],
        report_to=[],
        disable_tqdm=True,
        log_level="error",
        log_level_replica="error",
        seed=seed,
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
        ddp_timeout=WAIT,
        accelerator_config={"use_seedable_sampler": False, "dispatch_batches": False},
    )
    made._n_gpu = min(made.n_gpu, 1)  # several GPUs are for several processes, not for DataParallel
    return made


def set_steps(
    arguments: TrainingArguments, steps: int, *, warmup: float, checkpoint_steps: int | None
) -> None:
    """Set what depends on the steps of an epoch, once the number of pictures is known.

    Parameters
    ----------
    warmup : part of the steps of a run
    checkpoint_steps : steps between checkpoints; an epoch for None
    """
    arguments.warmup_steps = round(warmup * steps * int(arguments.num_train_epochs))
    arguments.logging_steps = min(steps, LOG_STEPS)
    arguments.save_steps = steps if checkpoint_steps is None else checkpoint_steps
    if arguments.eval_steps is not None:
        arguments.eval_steps = steps
