"""The modern block: what has been found since GPT-2 to reach the same loss sooner, and can be exported.

RMSNorm (Zhang and Sennrich 2019), rotary positions (Su et al. 2021), normed queries and keys (Henry et al.
2020), SwiGLU (Shazeer 2020), grouped-query attention (Ainslie et al. 2023), no biases. Put together and named
as in `transformers.Qwen3ForCausalLM` (Qwen team 2025, "Qwen3 Technical Report", section 2), so that a
checkpoint is one.

Shapes: B batch, T new tokens, S tokens so far including the new ones, C n_embd, H query heads, K key and
value heads, D head width, V vocabulary (rows above vocab_size are padding: zero, and never predicted).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptworks.model.attention import Layout, attend, causal_mask
from gptworks.model.cache import Cache
from gptworks.model.config import ModelConfig
from gptworks.model.linear import Linear, linear
from gptworks.model.rmsnorm import RMSNorm


class Rotary(nn.Module):
    """Turns pairs of coordinates by an angle that grows with the position: products see distances only."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.cos: Tensor
        self.sin: Tensor
        half = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device="cpu") / config.head_dim
        position = torch.arange(config.context, dtype=torch.float32, device="cpu")
        angle = torch.outer(position, config.rope_theta**-half)  # (context, D / 2)
        self.register_buffer("cos", torch.cat([angle.cos(), angle.cos()], 1)[:, None], persistent=False)
        self.register_buffer("sin", torch.cat([-angle.sin(), angle.sin()], 1)[:, None], persistent=False)

    def forward(self, positions: slice | Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines of positions: two of (T, 1, D), or of (B, T, 1, D) for a (B, T) tensor."""
        return self.cos[positions].to(dtype), self.sin[positions].to(dtype)


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate (B, T, H, D): coordinate i of the first half forms a pair with coordinate i of the second."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


class Attention(nn.Module):
    """Causal self-attention in which several query heads share a key and value head."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        C, H, K, D = config.n_embd, config.n_head, config.n_kv_head, config.head_dim
        self.layer, self.head_dim = layer, D
        self.drop_weights, self.drop_out = config.drop("attention"), config.drop("attention_out")
        self.q_proj = Linear(C, H * D, bias=False)
        self.k_proj = Linear(C, K * D, bias=False)
        self.v_proj = Linear(C, K * D, bias=False)
        self.o_proj = Linear(H * D, C, bias=False)
        self.q_norm = RMSNorm(D, config.norm_eps)
        self.k_norm = RMSNorm(D, config.norm_eps)

    def forward(
        self, x: Tensor, turns: tuple[Tensor, Tensor], mask: Tensor | None, cache: Cache | None
    ) -> Tensor:
        heads = (*x.shape[:2], -1, self.head_dim)
        q = turn(self.q_norm(self.q_proj(x).view(heads)), *turns).transpose(1, 2)  # (B, H, T, D)
        k = turn(self.k_norm(self.k_proj(x).view(heads)), *turns).transpose(1, 2)  # (B, K, T, D)
        v = self.v_proj(x).view(heads).transpose(1, 2)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)  # (B, K, S, D)
        y = attend(q, k, v, mask, self.drop_weights if self.training else 0.0)  # (B, T, H * D)
        return F.dropout(self.o_proj(y), self.drop_out, self.training)


class MLP(nn.Module):
    """SwiGLU: one half decides how much of the other passes."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.drop_out = config.drop("mlp_out")
        self.gate_proj = Linear(config.n_embd, config.n_inner, bias=False)
        self.up_proj = Linear(config.n_embd, config.n_inner, bias=False)
        self.down_proj = Linear(config.n_inner, config.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.gate_proj(x)) * self.up_proj(x)
        return F.dropout(self.down_proj(x), self.drop_out, self.training)


class Block(nn.Module):
    """Attention mixes tokens, then the MLP transforms each; both add to what they read, normed."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.n_embd, config.norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.n_embd, config.norm_eps)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, turns: tuple[Tensor, Tensor], mask: Tensor | None, cache: Cache | None
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), turns, mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Transformer(nn.Module):
    """Token ids to hidden states: everything but the head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.context, self.drop = config.context, config.drop("embedding")
        self.embed_tokens = nn.Embedding(config.padded_vocab, config.n_embd)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = RMSNorm(config.n_embd, config.norm_eps)
        self.rotary = Rotary(config)
        self.embed_tokens.weight.requires_grad_(not config.frozen_embedding)

    def forward(self, ids: Tensor, cache: Cache | None, layout: Layout | None = None) -> Tensor:
        T = ids.shape[1]
        past = 0 if cache is None else len(cache)
        if layout is not None:
            positions, mask = layout.positions, layout.mask
        elif past + T > self.context:
            raise ValueError(f"{past + T} tokens do not fit the model's context of {self.context}")
        else:
            positions, mask = slice(past, past + T), causal_mask(T, past + T, ids.device)
        x = F.dropout(self.embed_tokens(ids), self.drop, self.training)  # (B, T, C)
        turns = self.rotary(positions, x.dtype)
        for block in self.layers:
            x = block(x, turns, mask, cache)
        if cache is not None:
            cache.advance(T)
        return self.norm(x)


class Modern(nn.Module):
    """The modern network as a language model: hidden states, and a head that turns them into logits."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Transformer(config)
        self.lm_head = None if config.tied else Linear(config.n_embd, config.padded_vocab, bias=False)
        self.narrow_head: nn.Module | None = None  # int8.py has one

    def forward(self, ids: Tensor, cache: Cache | None = None, layout: Layout | None = None) -> Tensor:
        """(B, T) token ids -> (B, T, C) hidden states after the final norm.

        With a cache, the T tokens follow those it holds. A layout says where they stand instead.

        Raises:
            ValueError: more tokens than the context.
        """
        return self.model(ids, cache, layout)

    @property
    def head_weight(self) -> Tensor:
        """(V, C) matrix that reads logits off hidden states."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., C) hidden states -> (..., vocab_size) float32 logits."""
        head = self.narrow_head
        scores = linear(hidden, self.head_weight) if head is None else head(hidden)
        return scores[..., : self.config.vocab_size].float()
