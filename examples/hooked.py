"""A Llama in a local folder as TransformerLens' model, for the packages that want one.

HookedTransformer.from_pretrained takes names that it knows from the Hub. The bundled lm has none, so its form is built
here from the settings, with TransformerLens' own conversion of the weights.
"""

from typing import TypeVar

from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_llama_weights

from handover import Job

Hooked = TypeVar("Hooked", bound=HookedTransformer)


def hooked(job: Job, kind: type[Hooked]) -> Hooked:
    """The run's lm as a HookedTransformer, or a class made from it; weights as they are, nothing folded or centred."""
    lm = job.lm()
    llama = lm.config
    if llama.model_type != "llama":
        raise SystemExit(f"the run's lm is a {llama.model_type}; load it in TransformerLens by its name on the Hub")
    d_head = llama.hidden_size // llama.num_attention_heads
    is_grouped = llama.num_key_value_heads != llama.num_attention_heads
    settings = HookedTransformerConfig(
        n_layers=llama.num_hidden_layers,
        d_model=llama.hidden_size,
        n_ctx=min(llama.max_position_embeddings, 1024),
        d_head=d_head,
        n_heads=llama.num_attention_heads,
        n_key_value_heads=llama.num_key_value_heads if is_grouped else None,
        d_mlp=llama.intermediate_size,
        d_vocab=llama.vocab_size,
        act_fn=llama.hidden_act,
        eps=llama.rms_norm_eps,
        normalization_type="RMS",
        positional_embedding_type="rotary",
        rotary_dim=d_head,
        rotary_base=int(job.rotary_base),
        final_rms=True,
        gated_mlp=True,
        original_architecture="LlamaForCausalLM",
        default_prepend_bos=False,
        device="cpu",
    )
    model = kind(settings)
    model.load_and_process_state_dict(
        convert_llama_weights(lm, model.cfg),
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    model.tokenizer = job.tokenizer()
    return model.eval()
