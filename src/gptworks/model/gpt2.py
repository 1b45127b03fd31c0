"""GPT-2, the whole network.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3: a decoder-only
transformer (Vaswani et al. 2017) with pre-norm blocks, learned positions, tanh GELU, and an output head tied
to the embedding. Parameters are named as in `transformers.GPT2LMHeadModel`; hf_weights.py converts the rest.

Shapes: B batch, T new tokens, S tokens so far including the new ones, C n_embd, H heads, D = C / H,
V vocabulary (rows from vocab_size on are padding: zero and never predicted).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptworks.model import native
from gptworks.model.attention import AttentionInput, attend, causal_mask
from gptworks.model.cache import Cache
from gptworks.model.config import ModelConfig
from gptworks.model.linear import Linear, linear


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        C = config.n_embd
        self.layer, self.n_head = layer, config.n_head
        self.drop_weights = config.dropout_rate("attention")
        self.drop_out = config.dropout_rate("attention_out")
        self.c_attn = Linear(C, 3 * C, bias="qkv" in config.bias)
        self.c_proj = Linear(C, C, bias="proj" in config.bias)

    def forward(self, x: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)  # (B, H, S, D)
        y = attend(q, k, v, mask, self.drop_weights if self.training else 0.0)  # (B, T, C)
        return F.dropout(self.c_proj(y), self.drop_out, self.training)


class MLP(nn.Module):
    """Feed-forward layer on each token separately."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gelu = F.gelu if config.activation == "gelu" else native.gelu
        self.drop_out = config.dropout_rate("mlp_out")
        self.c_fc = Linear(config.n_embd, config.n_inner, bias="mlp" in config.bias)
        self.c_proj = Linear(config.n_inner, config.n_embd, bias="mlp" in config.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gelu(self.c_fc(x))
        return F.dropout(self.c_proj(x), self.drop_out, self.training)


def norm(config: ModelConfig) -> nn.LayerNorm:
    """Layer normalisation of (..., C)."""
    return nn.LayerNorm(config.n_embd, config.norm_eps, bias="norm" in config.bias)


class Block(nn.Module):
    """Pre-norm residual block: attention mixes tokens, then the MLP transforms each token."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = norm(config)
        self.attn = Attention(config, layer)
        self.ln_2 = norm(config)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        x = x + self.attn(self.ln_1(x), mask, cache)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """Token ids to hidden states: the network without its head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.context, self.drop = config.context, config.dropout_rate("embedding")
        self.wte = nn.Embedding(config.padded_vocab, config.n_embd)
        self.wpe = nn.Embedding(config.context, config.n_embd)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = norm(config)
        self.wte.weight.requires_grad_(not config.frozen_embedding)
        self.wpe.weight.requires_grad_(config.positions == "learned")

    def forward(
        self, ids: Tensor, cache: Cache | None, attention_input: AttentionInput | None = None
    ) -> Tensor:
        T = ids.shape[1]
        past = 0 if cache is None else len(cache)
        if attention_input is not None:
            positions, mask = attention_input.positions, attention_input.mask
        elif past + T > self.context:
            raise ValueError(f"{past + T} tokens do not fit the model's context of {self.context}")
        else:
            positions = torch.arange(past, past + T, device=ids.device)
            mask = causal_mask(T, past + T, ids.device)
        x = F.dropout(self.wte(ids) + self.wpe(positions), self.drop, self.training)  # (B, T, C)
        for block in self.h:
            x = block(x, mask, cache)
        if cache is not None:
            cache.advance(T)
        return self.ln_f(x)


class GPT2(nn.Module):
    """GPT-2 as a language model: `forward` gives hidden states, `logits` applies the head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = Transformer(config)
        self.lm_head = None if config.tied else Linear(config.n_embd, config.padded_vocab, bias=False)
        self.int8_head: nn.Module | None = None  # set by int8.quantize

    def forward(
        self, ids: Tensor, cache: Cache | None = None, attention_input: AttentionInput | None = None
    ) -> Tensor:
        """(B, T) token ids -> (B, T, C) hidden states after the final norm.

        The T tokens follow the cached ones, unless `attention_input` gives other positions.

        Raises:
            ValueError: more tokens than the context.
        """
        return self.transformer(ids, cache, attention_input)

    @property
    def head_weight(self) -> Tensor:
        """(V, C) matrix that maps hidden states to logits."""
        return self.transformer.wte.weight if self.lm_head is None else self.lm_head.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., C) hidden states -> (..., vocab_size) float32 logits."""
        head = self.int8_head
        scores = linear(hidden, self.head_weight) if head is None else head(hidden)
        return scores[..., : self.config.vocab_size].float()


def sinusoids(context: int, n_embd: int) -> Tensor:
    """(context, C) fixed positions: sines at even columns, cosines at odd ones (Vaswani et al. 2017, 3.5)."""
    position = torch.arange(context, dtype=torch.float64)[:, None]
    frequency = 10000.0 ** (-torch.arange(0, n_embd, 2, dtype=torch.float64) / n_embd)
    angle = position * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).float()
