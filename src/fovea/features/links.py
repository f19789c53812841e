"""What a latent writes and what lies near it.

    decoder row --(final norm's weight)--> unembedding --> promoted and suppressed tokens
    decoder rows --cosine, in blocks--> nearest latents of the same SAE

logit of token t = W_U[t] . (w * d): a linear approximation. The layers after the hook point are left out, and so is the
final norm's division by the length of the stream, which is the same for all tokens; where the norm subtracts the mean,
so is it here. For an SAE on the residual of g, d is its own decoder row, in raw units, as g + S(x) adds it.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fovea.eval.novelty import unit_rows
from fovea.features.files import LinkLists
from fovea.lm.model import LM

_ROWS, _TOKENS = 256, 32_768
"Block of latents and of the vocabulary: 32 MB of logits at a time."
_RUN = 128
"Columns whose largest is looked at before their own values are."


class Unembedding:
    """Logits of directions in the residual stream, by the direct path."""

    def __init__(self, lm: LM, *, n_tokens: int) -> None:
        head = lm.model.get_output_embeddings()
        assert isinstance(head, nn.Module), "a causal lm has an output embedding"
        weight = head.get_parameter("weight")
        self._weight = weight.detach()[: min(n_tokens, len(weight))]
        self._gain, self._subtracts_mean = _final_norm(lm)

    @torch.inference_mode()
    def extremes(self, W_dec: Float[Tensor, "d_sae d_model"], *, n: int) -> tuple[LinkLists, LinkLists]:
        """The `n` most promoted tokens of each row, and the `n` most suppressed."""
        rows = W_dec.detach().float().cpu()
        rows = rows - rows.mean(dim=1, keepdim=True) if self._subtracts_mean else rows
        directions = rows * self._gain
        nothing = torch.zeros(len(rows), 0, dtype=torch.int64), torch.zeros(len(rows), 0)
        promoted, suppressed = nothing, nothing
        for start in range(0, len(self._weight), _TOKENS):
            block = self._weight[start : start + _TOKENS].float().cpu()
            highest: list[tuple[Tensor, Tensor]] = []
            lowest: list[tuple[Tensor, Tensor]] = []
            for part in directions.split(_ROWS):
                logits = part @ block.T
                highest.append(_largest(logits, n))
                lowest.append(_largest(logits.neg_(), n))
            promoted, suppressed = _better(promoted, highest, start, n), _better(suppressed, lowest, start, n)
        return _lists([promoted]), _lists([(suppressed[0], -suppressed[1])])


def _largest(logits: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Columns and values of the `n` largest of each row: they lie in the n runs of columns with the largest maxima."""
    n_rows, width = logits.shape
    n = min(n, width)
    padded = nn.functional.pad(logits, (0, -width % _RUN), value=-torch.inf) if width % _RUN else logits
    maxima = padded.view(n_rows, -1, _RUN).amax(dim=2)
    runs = maxima.topk(min(n, maxima.shape[1]), dim=1).indices
    columns = (runs[:, :, None] * _RUN + torch.arange(_RUN)).flatten(1)
    top = padded.gather(1, columns).topk(n, dim=1)
    return columns.gather(1, top.indices), top.values


def _better(
    best: tuple[Tensor, Tensor], tops: list[tuple[Tensor, Tensor]], start: int, n: int
) -> tuple[Tensor, Tensor]:
    """Ids and values of the `n` largest of those found before and those of one more block of the vocabulary."""
    ids = torch.cat([best[0], torch.cat([ids for ids, _ in tops]) + start], dim=1)
    values = torch.cat([best[1], torch.cat([values for _, values in tops])], dim=1)
    # By id first, so that equal logits come in the order of their ids.
    ids, order = ids.sort(dim=1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return ids.gather(1, order)[:, :n], values[:, :n]


def nearest(W_dec: Float[Tensor, "d_sae d_in"], *, n: int) -> LinkLists:
    """For each latent the `n` others with the largest cosine of decoder rows; a row of length 0 has none."""
    unit = unit_rows(W_dec.detach().float().cpu()).nan_to_num(0.0)
    found: list[tuple[Tensor, Tensor]] = []
    n = min(n, len(unit) - 1)
    for start in range(0, len(unit), _ROWS):
        cosines = unit[start : start + _ROWS] @ unit.T
        own = torch.arange(len(cosines))
        cosines[own, start + own] = -torch.inf
        top = cosines.topk(n, dim=1)
        absent = (unit[start : start + _ROWS] == 0).all(dim=1)
        found.append((torch.where(absent[:, None], -1, top.indices), top.values.clamp(-1.0, 1.0)))
    return _lists(found)


def _lists(parts: list[tuple[Tensor, Tensor]]) -> LinkLists:
    ids, values = (torch.cat(column) for column in zip(*parts, strict=True))
    return LinkLists(ids.numpy(), values.float().numpy())


def _final_norm(lm: LM) -> tuple[Tensor, bool]:
    """The final norm's weight, and whether it subtracts the mean; measured by what the norm does to vectors of signs.

    However a family writes its norm (weight, 1 + weight, with or without bias), a vector of length sqrt(d) with mean 0
    comes out times the weight, plus the bias.
    """
    norms = [
        module
        for _, module in lm.model.base_model.named_children()
        if [tuple(p.shape) for p in module.parameters(recurse=False)][:1] == [(lm.d_model,)]
    ]
    if len(norms) != 1:
        return torch.ones(lm.d_model), False
    signs = torch.ones(lm.d_model)
    signs[1::2] = -1.0
    ones = torch.ones(lm.d_model)

    def odd_part(vector: Tensor) -> Tensor:
        given = vector.to(lm.device, lm.dtype)[None]
        return ((norms[0](given) - norms[0](-given)) / 2)[0].float().cpu()

    with torch.inference_mode():
        return odd_part(signs) * signs, bool(odd_part(ones).norm() < 1e-3 * odd_part(signs).norm())
