"""Cost model: FLOPs, bytes and memory of harvesting, training and evaluation, per token, from shapes alone.

    LMShape --> lm FLOPs to the hook --\\
    SAEShape -> step FLOPs, bytes -----+--> seconds on a Device (roofline: the slower of arithmetic and memory)
    ranks ----> bytes on the wire -----/

A product of [m k] by [k n] counts 2 m k n. Norms, softmax, rotary embedding and element-wise work count nothing: they
are what `benchmarks/cost_check.py` finds on top. Nothing here is measured; docs/scale.md sets the two side by side.
"""

from typing import NamedTuple

SAE_STATE_BYTES = 16
"Per weight: the weight, its gradient and Adam's two moments, all fp32."
ADAM_BYTES = 28
"Per weight and step: four fp32 numbers read, three written."
UPKEEP_BYTES = 18
"Per weight and step: norm of all gradients 4, writing them 4, projection and renormalisation of the decoder's half 10."


class LMShape(NamedTuple):
    """Sizes of a decoder-only lm with gated mlp."""

    name: str
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_mlp: int
    d_vocab: int

    @property
    def layer_weights(self) -> int:
        """Weights in the products of one layer."""
        attention = self.d_model * self.d_head * 2 * (self.n_heads + self.n_kv_heads)
        return attention + 3 * self.d_model * self.d_mlp

    def layer_flops(self, context: int) -> float:
        """FLOPs per token of one layer; a token attends to half a context on average."""
        return 2.0 * self.layer_weights + 4.0 * self.n_heads * self.d_head * (context + 1) / 2

    def forward_flops(self, n_layers: int, context: int) -> float:
        """FLOPs per token of the first `n_layers` layers, no head."""
        return n_layers * self.layer_flops(context)

    @property
    def head_flops(self) -> float:
        """FLOPs per token of the unembedding."""
        return 2.0 * self.d_model * self.d_vocab

    def weight_bytes(self, n_layers: int, *, head: bool, bytes_per_weight: int = 2) -> float:
        """Memory of the embedding and `n_layers` layers; the unembedding on top (tied lms share it: an upper bound)."""
        tables = self.d_vocab * self.d_model * (2 if head else 1)
        return float(bytes_per_weight) * (n_layers * self.layer_weights + tables)


class SAEShape(NamedTuple):
    """Sizes of one SAE in training."""

    d_in: int
    d_sae: int
    k: int
    batch: int
    "Tokens per step, all ranks together."

    @property
    def weights(self) -> int:
        """Numbers in encoder and decoder; biases are nothing beside them."""
        return 2 * self.d_in * self.d_sae

    @property
    def encoder_flops(self) -> float:
        """FLOPs per token of the one dense product."""
        return 2.0 * self.d_in * self.d_sae

    @property
    def step_flops(self) -> float:
        """FLOPs per token: the encoder, and for each active latent decode, d value and two weight gradients."""
        return self.encoder_flops + 8.0 * self.k * self.d_in

    @property
    def dense_step_flops(self) -> float:
        """FLOPs per token where every product is dense: forward 2, backward 3 (none back to x)."""
        return 10.0 * self.d_in * self.d_sae

    @property
    def use_flops(self) -> float:
        """FLOPs per token of encode and decode alone."""
        return self.encoder_flops + 2.0 * self.k * self.d_in

    @property
    def step_bytes(self) -> float:
        """Memory traffic per token: the share of the weights' upkeep, x and x_hat, rows of active latents.

        Pre-activations are not in it: they are made in pieces that stay in cache.
        """
        return self.weights * (ADAM_BYTES + UPKEEP_BYTES) / self.batch + 4.0 * self.d_in * (4 + 4 * self.k)

    @property
    def state_bytes(self) -> float:
        """Memory of weights, gradients and Adam."""
        return float(SAE_STATE_BYTES) * self.weights

    def all_reduce_bytes(self, ranks: int) -> float:
        """Bytes a rank sends per step where `ranks` share the tokens: fp32 gradients, ring all-reduce."""
        return 2.0 * (ranks - 1) / ranks * 4.0 * self.weights

    def shard_bytes(self, ranks: int) -> float:
        """Bytes a rank sends per token where `ranks` share the latents: candidates (value, index), sums of x_hat."""
        return (ranks - 1) * 8.0 * self.k / ranks + 2.0 * (ranks - 1) / ranks * 4.0 * self.d_in


class Device(NamedTuple):
    """What one device can do."""

    name: str
    flops: float
    "FLOP/s of large products, as reached in practice."
    bandwidth: float
    "Bytes/s of its memory."
    memory: float
    "Bytes."
    link: float
    "Bytes/s to other devices, one direction; unused where there is one device."

    def seconds(self, flops: float, n_bytes: float = 0.0) -> float:
        """Roofline: the slower of arithmetic and memory traffic."""
        return max(flops / self.flops, n_bytes / self.bandwidth)


class Mesh(NamedTuple):
    """How devices share the work."""

    data: int
    "Groups, each with tokens of its own."
    latents: int
    "Devices of a group, each with latents of its own."

    @property
    def size(self) -> int:
        """Devices."""
        return self.data * self.latents


class StepTime(NamedTuple):
    """Seconds of a step by cause."""

    lm: float
    general: float
    saes: float
    wire: float

    @property
    def total(self) -> float:
        """Seconds of a step."""
        return sum(self)


class Plan(NamedTuple):
    """A run: one lm, g, and n equal SAEs on one stream."""

    lm: LMShape
    n_layers: int
    "Layers up to the hook point."
    context: int
    sae: SAEShape
    n_saes: int
    d_general: int
    k_general: int

    @property
    def harvest_flops(self) -> float:
        """FLOPs per token of the lm up to the hook."""
        return self.lm.forward_flops(self.n_layers, self.context)

    @property
    def general_flops(self) -> float:
        """FLOPs per token of g(x), once for all SAEs."""
        return 2.0 * self.lm.d_model * (self.d_general + self.k_general)

    @property
    def train_flops(self) -> float:
        """FLOPs per token of everything, all SAEs together."""
        return self.harvest_flops + self.general_flops + self.n_saes * self.sae.step_flops

    @property
    def evaluate_flops(self) -> float:
        """FLOPs per token of the losses of the lm clean, with zero, mean, g and each SAE in place."""
        after = self.lm.forward_flops(self.lm.n_layers - self.n_layers, self.context) + self.lm.head_flops
        use = self.general_flops + self.n_saes * self.sae.use_flops
        return self.harvest_flops + (4 + self.n_saes) * after + use

    def step_time(self, device: Device, mesh: "Mesh") -> "StepTime":
        """Seconds of one step of all SAEs, each by sparse or dense products, whichever is faster.

        Exchange and arithmetic are not overlapped: an upper bound.
        """
        n, sae = self.sae.batch, self.sae
        sparse = device.seconds(sae.step_flops, 16.0 * sae.d_in * (1 + sae.k))
        own = min(sparse, device.seconds(sae.dense_step_flops)) * n / mesh.size
        upkeep = sae.weights * (ADAM_BYTES + UPKEEP_BYTES) / mesh.latents / device.bandwidth
        gathered = 2.0 * sae.d_in * (mesh.latents - 1) / mesh.latents * n / mesh.data
        sent = sae.all_reduce_bytes(mesh.data) / mesh.latents + sae.shard_bytes(mesh.latents) * n / mesh.data
        wire = 0.0 if mesh.size == 1 else (gathered + self.n_saes * sent) / device.link
        lm = device.seconds(self.harvest_flops) * n / mesh.size
        general = device.seconds(self.general_flops) * n / mesh.size
        return StepTime(lm, general, self.n_saes * (own + upkeep), wire)

    def best_mesh(self, device: Device, ranks: int) -> "Mesh":
        """The split of `ranks` devices, a power of 2, with the fastest step."""
        meshes = [Mesh(ranks >> power, 1 << power) for power in range(ranks.bit_length())]
        return min(meshes, key=lambda mesh: self.step_time(device, mesh).total)

    def memory(self, mesh: "Mesh") -> float:
        """Bytes on one device: lm up to the hook in bf16, g in bf16 (forward only), its part of all SAEs."""
        general = 2.0 * 2 * self.lm.d_model * self.d_general
        saes = self.n_saes * self.sae.state_bytes / mesh.latents
        return self.lm.weight_bytes(self.n_layers, head=False) + general + saes

    def cache_bytes(self, bytes_per_number: float = 2.0) -> float:
        """Disk per token for activations that are kept."""
        return bytes_per_number * self.lm.d_model


SMOLLM2 = LMShape("SmolLM2-135M", 30, 576, 9, 3, 64, 1536, 49152)
GEMMA_2B = LMShape("Gemma-2-2B", 26, 2304, 8, 4, 256, 9216, 256000)
GEMMA_9B = LMShape("Gemma-2-9B", 42, 3584, 16, 8, 256, 14336, 256000)
LLAMA_70B = LMShape("Llama-3-70B", 80, 8192, 64, 8, 128, 28672, 128256)
H100 = Device("H100, 80 GB", 600e12, 3.3e12, 80e9, 50e9)
"600 TFLOP/s bf16 as large products reach it, 3.3 TB/s, 400 Gbit/s a device between machines."
