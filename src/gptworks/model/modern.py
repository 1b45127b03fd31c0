"""The modern network: improvements since GPT-2 that reach its loss with less training and that other programs can load.

RMSNorm (Zhang and Sennrich 2019), rotary positions (Su et al. 2021), QK-norm (Henry et al. 2020), SwiGLU (Shazeer
2020), grouped-query attention (Ainslie et al. 2023), no biases. Assembled and named as in
`transformers.Qwen3ForCausalLM` (Qwen team 2025, "Qwen3 Technical Report", section 2): a checkpoint is a Qwen3 model.

Shapes: B batch, T new tokens, S tokens so far including the new ones, C n_embd, H query heads, K key and
value heads, D head width, V vocabulary (rows from vocab_size on are padding: zero and never predicted).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptworks.model.attention import AttentionInput, attend, causal_mask
from gptworks.model.cache import Cache
from gptworks.model.config import ModelConfig
from gptworks.model.linear import Linear, linear
from gptworks.model.rmsnorm import RMSNorm


class Rotary(nn.Module):
    """Rotary positions: rotates pairs of coordinates by the position, so that scores depend on distances only."""

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
        """Cosines and signed sines, each (T, 1, D) for a slice of T positions, (B, T, 1, D) for a (B, T) tensor."""
        return self.cos[positions].to(dtype), self.sin[positions].to(dtype)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate (B, T, H, D): coordinate i of the first half pairs with coordinate i of the second half."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


class Attention(nn.Module):
    """Causal grouped-query attention with QK-norm and rotary positions."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        C, H, K, D = config.n_embd, config.n_head, config.n_kv_head, config.head_dim
        self.layer, self.head_dim = layer, D
        self.drop_weights = config.dropout_rate("attention")
        self.drop_out = config.dropout_rate("attention_out")
        self.q_proj = Linear(C, H * D, bias=False)
        self.k_proj = Linear(C, K * D, bias=False)
        self.v_proj = Linear(C, K * D, bias=False)
        self.o_proj = Linear(H * D, C, bias=False)
        self.q_norm = RMSNorm(D, config.norm_eps)
        self.k_norm = RMSNorm(D, config.norm_eps)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: Cache | None
    ) -> Tensor:
        heads = (*x.shape[:2], -1, self.head_dim)
        q = apply_rope(self.q_norm(self.q_proj(x).view(heads)), cos, sin).transpose(1, 2)  # (B, H, T, D)
        k = apply_rope(self.k_norm(self.k_proj(x).view(heads)), cos, sin).transpose(1, 2)  # (B, K, T, D)
        v = self.v_proj(x).view(heads).transpose(1, 2)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)  # (B, K, S, D)
        y = attend(q, k, v, mask, self.drop_weights if self.training else 0.0)  # (B, T, H * D)
        return F.dropout(self.o_proj(y), self.drop_out, self.training)


class MLP(nn.Module):
    """SwiGLU: a gated feed-forward layer on each token separately."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.drop_out = config.dropout_rate("mlp_out")
        self.gate_proj = Linear(config.n_embd, config.n_inner, bias=False)
        self.up_proj = Linear(config.n_embd, config.n_inner, bias=False)
        self.down_proj = Linear(config.n_inner, config.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.gate_proj(x)) * self.up_proj(x)
        return F.dropout(self.down_proj(x), self.drop_out, self.training)


class Block(nn.Module):
    """Pre-norm residual block: attention mixes tokens, then the MLP transforms each token."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.n_embd, config.norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.n_embd, config.norm_eps)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: Cache | None
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Transformer(nn.Module):
    """Token ids to hidden states: the network without its head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.context, self.drop = config.context, config.dropout_rate("embedding")
        self.embed_tokens = nn.Embedding(config.padded_vocab, config.n_embd)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = RMSNorm(config.n_embd, config.norm_eps)
        self.rotary = Rotary(config)
        self.embed_tokens.weight.requires_grad_(not config.frozen_embedding)

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
            positions, mask = slice(past, past + T), causal_mask(T, past + T, ids.device)
        x = F.dropout(self.embed_tokens(ids), self.drop, self.training)  # (B, T, C)
        cos, sin = self.rotary(positions, x.dtype)
        for block in self.layers:
            x = block(x, cos, sin, mask, cache)
        if cache is not None:
            cache.advance(T)
        return self.norm(x)


class Modern(nn.Module):
    """The modern network as a language model: `forward` gives hidden states, `logits` applies the head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Transformer(config)
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
        return self.model(ids, cache, attention_input)

    @property
    def head_weight(self) -> Tensor:
        """(V, C) matrix that maps hidden states to logits."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., C) hidden states -> (..., vocab_size) float32 logits."""
        head = self.int8_head
        scores = linear(hidden, self.head_weight) if head is None else head(hidden)
        return scores[..., : self.config.vocab_size].float()
