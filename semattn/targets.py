"""The meaning of a model's output: class logits, one logit, probabilities, features, and so on.

`OutputMeaning` converts an output into scores, probabilities, a predicted answer and a text.
`semattn.attention.output_meaning` determines the kind of an output. This module imports neither
models nor images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from .utils.class_names import binary_names


class OutputKind(Enum):
    """Kinds of model outputs; the value is the name in messages."""

    CLASS_LOGITS = "class logits"
    ONE_LOGIT = "one logit"
    MULTI_LABEL_LOGITS = "multi-label logits"
    PROBABILITIES = "probabilities"
    INDEPENDENT_PROBABILITIES = "independent probabilities"
    REGRESSION = "regression"
    FEATURES = "features"
    DENSE = "an output of more than two axes"


_KINDS_WITHOUT_ANSWERS = (OutputKind.REGRESSION, OutputKind.FEATURES, OutputKind.DENSE)
_KINDS_WITHOUT_PERCENT = (*_KINDS_WITHOUT_ANSWERS, OutputKind.ONE_LOGIT)


@dataclass(frozen=True)
class OutputMeaning:
    """Kind of a model's output, with conversions to probabilities, predictions and texts.

    An *answer* is a possible prediction: class 0 … K-1, or 0 (negative) and 1 (positive) for a
    model with one logit or one probability. A *target* of 0 of such a model is its single output.

    Parameters
    ----------
    kind : the kind of output
    note : a sentence for the user if the kind is assumed or unusual; "" otherwise
    part : name or number of the part of the model's result that is the output; None for all of it
    refusal : error message if the part cannot be determined; "" otherwise

    Examples
    --------
    >>> binary = OutputMeaning(OutputKind.ONE_LOGIT)
    >>> logits = torch.tensor([[-7.0]])
    >>> binary.predicted(logits).tolist(), binary.share_text(logits[0], 0)
    ([0], 'logit -7.00')
    """

    kind: OutputKind = OutputKind.CLASS_LOGITS
    note: str = ""
    part: str | int | None = None
    refusal: str = ""

    @property
    def has_answers(self) -> bool:
        """Return whether the model predicts one of several answers."""
        return self.kind not in _KINDS_WITHOUT_ANSWERS

    @property
    def in_percent(self) -> bool:
        """Return whether outputs are shown as percentages instead of plain numbers."""
        return self.kind not in _KINDS_WITHOUT_PERCENT

    def is_binary(self, outputs: int) -> bool:
        """Return whether a single output stands for two answers."""
        single = self.kind is OutputKind.INDEPENDENT_PROBABILITIES and outputs == 1
        return single or self.kind is OutputKind.ONE_LOGIT

    def answers(self, outputs: int) -> int:
        """Return the number of answers of a model with so many outputs; 0 without answers."""
        if not self.has_answers:
            return 0
        return 2 if self.is_binary(outputs) else outputs

    def scores(self, logits: Tensor) -> Tensor:
        """Return scores of the answers (B, A) from the output (B, K) or (B,); the highest wins."""
        rows = logits[:, None] if logits.ndim == 1 else logits
        if not self.is_binary(rows.shape[1]):
            return rows
        negative = -rows if self.kind is OutputKind.ONE_LOGIT else 1 - rows
        return torch.cat([negative, rows], dim=1)

    def score_probabilities(self, scores: Tensor) -> Tensor | None:
        """Return probabilities (…, A), float64, for the `scores`; None without answers."""
        exact = scores.to(torch.float64)
        if self.kind is OutputKind.CLASS_LOGITS:
            return exact.softmax(dim=-1)
        if self.kind in (OutputKind.MULTI_LABEL_LOGITS, OutputKind.ONE_LOGIT):
            return exact.sigmoid()
        return exact if self.has_answers else None

    def probabilities(self, logits: Tensor) -> Tensor | None:
        """Return probabilities of the answers (B, A), float64; None without answers."""
        return self.score_probabilities(self.scores(logits)) if self.has_answers else None

    def predicted(self, logits: Tensor) -> Tensor | None:
        """Return the predicted answer of each image, (B,); None without answers.

        It is the answer with the highest score: for a single logit or probability, 1 if the logit
        is positive or the probability is above 1/2.
        """
        return self.scores(logits).argmax(dim=1) if self.has_answers else None

    def uncertainty(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the entropy in nats and the margin of the two most probable answers, each (B,).

        For multi-label outputs, the entropy is the mean over the labels.
        """
        probabilities = self.probabilities(logits)
        if probabilities is None:
            raise ValueError(f"output: expected one with answers, got {self.kind.value}")
        entropy = torch.special.entr(probabilities)
        if self._sums_to_one(logits):
            entropy = entropy.sum(dim=1)
        else:
            entropy = (entropy + torch.special.entr(1 - probabilities)).mean(dim=1)
        top_two = probabilities.topk(min(2, probabilities.shape[1]), dim=1).values
        return entropy, top_two[:, 0] - top_two[:, 1:].sum(dim=1)

    def log_odds(self, logits: Tensor, answers: Tensor) -> Tensor:
        """Return log p / (1 - p) of one answer for each image, (B,) nats.

        Parameters
        ----------
        logits : (B, K) or (B,)
        answers : (B,), an answer for each image
        """
        scores = self.scores(logits)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        index = answers.to(scores.device)[:, None]
        answer_scores = scores.gather(1, index)[:, 0]
        if self.kind in (OutputKind.MULTI_LABEL_LOGITS, OutputKind.ONE_LOGIT):
            return answer_scores
        if self.kind is OutputKind.CLASS_LOGITS:
            return answer_scores - scores.scatter(1, index, -torch.inf).logsumexp(dim=1)
        return answer_scores.logit(eps=torch.finfo(scores.dtype).eps)

    def log_scores(self, logits: Tensor) -> Tensor:
        """Return scores of the answers in nats, (B, A), for comparisons between answers.

        They are log-probabilities if the probabilities of the answers sum to 1, else log-odds.

        Examples
        --------
        >>> OutputMeaning().log_scores(torch.tensor([[0.0, 0.0]])).exp().tolist()
        [[0.5, 0.5]]
        """
        scores = self.scores(logits)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if self.kind is OutputKind.CLASS_LOGITS:
            return scores.log_softmax(dim=1)
        if self.kind in (OutputKind.MULTI_LABEL_LOGITS, OutputKind.ONE_LOGIT):
            return scores
        eps = torch.finfo(scores.dtype).eps
        if self._sums_to_one(logits):
            return scores.clamp(min=eps).log()
        return scores.logit(eps=eps)

    def share_text(self, row: Tensor, number: int) -> str:
        """Return the probability of an answer as a percentage, or the output as a number.

        Parameters
        ----------
        row : output of one image, (K,) or ()
        number : the answer; for a single logit, both answers show the logit

        Examples
        --------
        >>> OutputMeaning().share_text(torch.tensor([0.0, 1.0]), 1)
        '73.1 %'
        >>> OutputMeaning(OutputKind.REGRESSION).share_text(torch.tensor([3.25]), 0)
        'value 3.25'
        """
        row = row.detach().cpu().double().reshape(1, -1)
        probabilities = self.probabilities(row) if self.in_percent else None
        if probabilities is None:
            value = float(row[0, 0 if self.kind is OutputKind.ONE_LOGIT else number])
            return f"{self.unit} {value:.2f}"
        percent = 100 * float(probabilities[0, number])
        return f"{percent:.1f} %" if percent >= 0.05 else "< 0.1 %"

    @property
    def unit(self) -> str:
        """Name of a number of the output: "logit" or "value"."""
        return "logit" if "logit" in self.kind.value else "value"

    def label(self, number: int, names: Sequence[str] | None, outputs: int) -> str:
        """Return the name of an answer, or its number if the model has no class names."""
        if self.is_binary(outputs):
            return (binary_names(names) or ("negative", "positive"))[number]
        if names is not None and 0 <= number < len(names):
            return names[number]
        return f"class {number}" if self.has_answers else f"output {number}"

    def _sums_to_one(self, logits: Tensor) -> bool:
        if self.kind in (OutputKind.CLASS_LOGITS, OutputKind.PROBABILITIES):
            return True
        return self.is_binary(1 if logits.ndim == 1 else logits.shape[1])
