"""The calibrated fMRI encoder: a vision transformer over maps of visual cortex, and the autoencoder that trains it.

The encoder gives every subject the same latent space. It is trained as an autoencoder whose decoder sees a single
bottleneck vector (stage ``calibrate``); afterwards only the encoder is kept and its tokens feed the two networks that
modulate the backbone. Sizes of the paper: 256 x 256 maps, patches of 16, 257 tokens of width 1024, depth 24.
"""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional

LAYER_NORM_EPS = 1e-5  # official encoder; timm and MAE use 1e-6
PAPER_BOTTLENECK = 2048  # width of the vector between encoder and decoder, official encoder


def image_shape(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Return ``(height, width)`` in pixels of a size given as one number (square) or two."""
    if isinstance(image_size, int):
        return image_size, image_size
    height, width = image_size
    return int(height), int(width)


def grid_shape(image_size: int | tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Return ``(rows, columns)`` of patches; raise ``ValueError`` where patches do not tile the map."""
    height, width = image_shape(image_size)
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"image_size: {height} x {width} is not a multiple of patch_size {patch_size}; "
            f"allowed: multiples of the patch size, for example image_size {patch_size * 8}"
        )
    return height // patch_size, width // patch_size


def sincos_table(width: int, rows: int, columns: int) -> torch.Tensor:
    """Make the fixed two-dimensional sine-cosine position table, class token first.

    Parameters
    ----------
    width
        Token width, a multiple of 4.
    rows, columns
        Patch grid.

    Returns
    -------
    torch.Tensor
        ``[1, 1 + rows * columns, width]`` float32. Row 0 (class token) is zero; the first half of a row encodes the
        column (w axis first, as in MAE), the second half the row; each half is sines, then cosines.
    """
    if width % 4:
        raise ValueError(f"width: {width} cannot carry a sine-cosine table; allowed: multiples of 4, for example 128")
    frequency = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = torch.meshgrid(
        torch.arange(rows, dtype=torch.float64), torch.arange(columns, dtype=torch.float64), indexing="ij"
    )
    halves = []
    for position in (column, row):
        angle = position.reshape(-1, 1) * frequency
        halves += [angle.sin(), angle.cos()]
    table = torch.cat(halves, dim=1)
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), table])[None].float()


def patchify(maps: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Cut maps ``[B, C, H, W]`` into patches ``[B, N, patch * patch * C]``, inside a patch by row, column, channel."""
    batch, channels, height, width = maps.shape
    rows, columns = grid_shape((height, width), patch_size)
    pieces = maps.reshape(batch, channels, rows, patch_size, columns, patch_size)
    return pieces.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, patch_size * patch_size * channels)


def unpatchify(patches: torch.Tensor, image_size: int | tuple[int, int], patch_size: int) -> torch.Tensor:
    """Put patches ``[B, N, patch * patch * C]`` together to maps ``[B, C, H, W]``; the inverse of `patchify`."""
    height, width = image_shape(image_size)
    rows, columns = grid_shape(image_size, patch_size)
    pieces = patches.reshape(patches.shape[0], rows, columns, patch_size, patch_size, -1)
    return pieces.permute(0, 5, 1, 3, 2, 4).reshape(patches.shape[0], -1, height, width)


def reconstruction_error(
    reconstruction: torch.Tensor, maps: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean squared error of each map.

    Parameters
    ----------
    reconstruction, maps
        ``[B, C, H, W]``.
    mask
        ``[B, H, W]`` or ``[H, W]``, 1 where a pixel counts; the same for all channels. None: all pixels count. Where
        none does the error is 0.

    Returns
    -------
    torch.Tensor
        ``[B]``, one value a map (no mean over the batch).
    """
    error = (reconstruction - maps) ** 2
    if mask is None:
        return error.flatten(1).mean(1)
    weight = mask.to(error.dtype).expand(error.shape[0], *error.shape[2:])[:, None].expand_as(error)
    return (error * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp(min=1)


class _Attention(nn.Module):
    """Multi-head self-attention over tokens ``[B, N, width]`` with one joint projection."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        if width % heads:
            raise ValueError(f"heads: {heads} does not divide width {width}; allowed: divisors, for example 4 for 128")
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        batch, length, width = tokens.shape
        joint = self.qkv(tokens).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = joint.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(
            query, key, value, dropout_p=self.dropout if self.training else 0.0
        )
        mixed = self.proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return functional.dropout(mixed, self.dropout, self.training)


class _Feedforward(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = functional.dropout(functional.gelu(self.fc1(tokens)), self.dropout, self.training)
        return functional.dropout(self.fc2(hidden), self.dropout, self.training)


class _Block(nn.Module):
    """Pre-norm transformer block; `dropout` is also the rate at which a whole branch is skipped for a sample."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attn = _Attention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = _Feedforward(width, dropout)

    def _keep(self, branch: torch.Tensor) -> torch.Tensor:
        if not self.training or self.dropout == 0.0:
            return branch
        keep = torch.rand(branch.shape[0], 1, 1, device=branch.device) >= self.dropout
        return branch * keep / (1.0 - self.dropout)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self._keep(self.attn(self.norm1(tokens)))
        return tokens + self._keep(self.mlp(self.norm2(tokens)))


class _PatchEmbedding(nn.Module):
    """Linear embedding of patches, written as a convolution as in the official key layout (``patch_embed.proj``)."""

    def __init__(self, channels: int, patch_size: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.proj(maps).flatten(2).transpose(1, 2)


def _initialise(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for linear layers, the usual start of a vision transformer."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


class FMRIEncoder(ModelMixin, ConfigMixin):
    """Vision transformer from maps to tokens.

    Parameters
    ----------
    image_size
        Map height and width in pixels, one number or ``(height, width)``.
    patch_size
        Patch height and width in pixels.
    in_channels
        Map channels.
    width, depth, heads
        Token width, number of blocks, attention heads. The head count cannot be read from a checkpoint's weights.
    dropout
        One rate for activations, attention and whole branches.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        image_size: int | tuple[int, int] = 256,
        patch_size: int = 16,
        in_channels: int = 1,
        width: int = 1024,
        depth: int = 24,
        heads: int = 16,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.gradient_checkpointing = False
        rows, columns = grid_shape(image_size, patch_size)
        self.patch_embed = _PatchEmbedding(in_channels, patch_size, width)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.register_buffer("pos_embed", sincos_table(width, rows, columns), persistent=False)
        self.blocks = nn.ModuleList(_Block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.blocks.apply(_initialise)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.view(width, -1))
        nn.init.zeros_(self.patch_embed.proj.get_parameter("bias"))

    @property
    def n_tokens(self) -> int:
        """Number of tokens, class token included."""
        return self.pos_embed.shape[1]

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return tokens ``[B, n_tokens, width]`` (class token at index 0) of maps ``[B, C, H, W]``."""
        expected = (self.config["in_channels"], *image_shape(self.config["image_size"]))
        if maps.ndim != 4 or tuple(maps.shape[1:]) != expected:
            raise ValueError(
                f"maps: shape {tuple(maps.shape)} does not fit this encoder; allowed: (batch, {expected[0]}, "
                f"{expected[1]}, {expected[2]}), for example (2, {expected[0]}, {expected[1]}, {expected[2]})"
            )
        table = self.pos_embed.to(maps.dtype)  # diffusers casts weights, not tables
        tokens = self.patch_embed(maps) + table[:, 1:]
        first = (self.cls_token + table[:, :1]).expand(tokens.shape[0], -1, -1)
        tokens = torch.cat([first, tokens], dim=1)
        rerun = self._gradient_checkpointing_func if self.gradient_checkpointing and torch.is_grad_enabled() else None
        for block in self.blocks:
            tokens = rerun(block, tokens) if rerun else block(tokens)
        return self.norm(tokens)


class FMRIAutoencoder(ModelMixin, ConfigMixin):
    """Encoder, one bottleneck vector made from the class token, and a light decoder back to the map.

    There is no masking of patches: the encoder sees the whole map, and the decoder has nothing but the bottleneck.

    Parameters
    ----------
    image_size, patch_size, in_channels, width, depth, heads, dropout
        See `FMRIEncoder`; the decoder uses the same heads and dropout.
    decoder_width, decoder_depth
        Token width and number of blocks of the decoder.
    bottleneck
        Width of the vector between the two (2048 in the paper).
    """

    @register_to_config
    def __init__(
        self,
        image_size: int | tuple[int, int] = 256,
        patch_size: int = 16,
        in_channels: int = 1,
        width: int = 1024,
        depth: int = 24,
        heads: int = 16,
        dropout: float = 0.0,
        decoder_width: int = 512,
        decoder_depth: int = 8,
        bottleneck: int = PAPER_BOTTLENECK,
    ):
        super().__init__()
        rows, columns = grid_shape(image_size, patch_size)
        self.encoder = FMRIEncoder(image_size, patch_size, in_channels, width, depth, heads, dropout)
        self.bottleneck_embed = nn.Linear(width, bottleneck)
        self.decoder_embed = nn.Linear(bottleneck, decoder_width)
        self.mask_token = nn.Parameter(torch.randn(1, 1, decoder_width) * 0.02)
        self.register_buffer("decoder_pos_embed", sincos_table(decoder_width, rows, columns), persistent=False)
        self.decoder_blocks = nn.ModuleList(_Block(decoder_width, heads, dropout) for _ in range(decoder_depth))
        self.decoder_norm = nn.LayerNorm(decoder_width, eps=LAYER_NORM_EPS)
        self.decoder_pred = nn.Linear(decoder_width, patch_size * patch_size * in_channels)
        for part in (self.bottleneck_embed, self.decoder_embed, self.decoder_blocks, self.decoder_pred):
            part.apply(_initialise)

    def encode(self, maps: torch.Tensor) -> torch.Tensor:
        """Return the bottleneck ``[B, 1, bottleneck]`` of maps ``[B, C, H, W]``."""
        return self.bottleneck_embed(self.encoder(maps)[:, :1])

    def decode(self, code: torch.Tensor) -> torch.Tensor:
        """Return patches ``[B, N, patch * patch * C]`` of a bottleneck ``[B, 1, bottleneck]``."""
        first = self.decoder_embed(code)
        rest = self.mask_token.expand(code.shape[0], self.decoder_pos_embed.shape[1] - 1, -1)
        tokens = torch.cat([first, rest.to(first.dtype)], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            tokens = block(tokens)
        return self.decoder_pred(self.decoder_norm(tokens))[:, 1:]

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return reconstructed maps ``[B, C, H, W]`` of maps ``[B, C, H, W]``."""
        return unpatchify(self.decode(self.encode(maps)), self.config["image_size"], self.config["patch_size"])
