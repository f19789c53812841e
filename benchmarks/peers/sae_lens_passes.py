"""sae-lens on text: its single-SAE and multi-SAE runners end to end, and run_evals."""

import json
from pathlib import Path
from typing import Any

import datasets
import torch
from sae_lens import LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner, LoggingConfig
from sae_lens.evals import EvalConfig, run_evals
from sae_lens.load_model import load_model
from sae_lens.multi_sae_training_runner import MultiSAETrainingRunner, MultiSAETrainingRunnerConfig
from sae_lens.saes.sae import SAE
from sae_lens.training.activation_scaler import ActivationScaler
from sae_lens.training.activations_store import ActivationsStore
from sae_lens_worker import sae_config
from safetensors.torch import load_file


def prepare(task: dict[str, Any]) -> tuple[Any, Any]:
    """end to end: "separate" runs or the "multi" trainer; or evaluation."""
    return {"separate": separate, "multi": multi, "eval": evaluation}[task["kind"]](task)


def shared(task: dict[str, Any]) -> dict[str, Any]:
    """Settings of both runners. 64 batches in the buffer: the default of 20 holds less than one training batch."""
    dtype = {"dtype": task["dtype"]} if task["dtype"] != "float32" else {}
    return {
        "model_class_name": "AutoModelForCausalLM",
        "model_name": task["model"],
        "model_from_pretrained_kwargs": dtype,
        "streaming": False,
        "context_size": task["context_size"],
        "n_batches_in_buffer": 64,
        "training_tokens": task["train_tokens"],
        "train_batch_size_tokens": task["batch_size"],
        "exclude_special_tokens": True,
        "checkpoint_path": None,
        "output_path": None,
        "logger": LoggingConfig(log_to_wandb=False),
    }


def documents(task: dict[str, Any]) -> datasets.Dataset:
    """The texts that all tools read."""
    texts = [json.loads(line)["text"] for line in Path(task["texts"]).read_text().splitlines()]
    return datasets.Dataset.from_dict({"text": texts})


def started(task: dict[str, Any], sae: dict[str, Any]) -> dict[str, torch.Tensor] | None:
    """Weights that a finetune starts from."""
    return load_file(Path(task["general"]) / "sae_weights.safetensors") if sae["starts_from_general"] else None


def fill(sae: Any, weights: dict[str, torch.Tensor] | None) -> Any:
    """Copy the weights that both forms have."""
    if weights is not None:
        own = sae.state_dict()
        sae.load_state_dict(own | {name: weights[name].float() for name in own if name in weights})
    return sae


def separate(task: dict[str, Any]) -> tuple[Any, Any]:
    """One run of LanguageModelSAETrainingRunner an SAE, one after the other; a unit is one run, its model loaded."""
    from sae_lens import BatchTopKTrainingSAE

    saes, dataset = task["saes"], documents(task)
    done: list[int] = []

    def unit() -> int:
        for each in saes:
            made = sae_config(each["arch"], each["d_in"], each["d_sae"], each["k"])
            cfg = LanguageModelSAERunnerConfig(
                sae=made, hook_name=task["hook_name"], is_dataset_tokenized=False, verbose=False, **shared(task)
            )
            start = started(task, each)
            own = None if start is None else fill(BatchTopKTrainingSAE(made), start)
            runner = LanguageModelSAETrainingRunner(cfg, override_dataset=dataset, override_sae=own)
            runner.run()
            done.append(each["d_sae"])
        return task["train_tokens"]

    return unit, lambda: {"runs": len(done)}


def multi(task: dict[str, Any]) -> tuple[Any, Any]:
    """One run of MultiSAETrainingRunner for all SAEs."""
    from sae_lens import BatchTopKTrainingSAE

    dataset = documents(task)

    def unit() -> int:
        made = {f"sae{i}": sae_config(s["arch"], s["d_in"], s["d_sae"], s["k"]) for i, s in enumerate(task["saes"])}
        own = {
            name: fill(BatchTopKTrainingSAE(config), started(task, each))
            for (name, config), each in zip(made.items(), task["saes"], strict=True)
        }
        cfg = MultiSAETrainingRunnerConfig(saes=made, hook_names=task["hook_name"], **shared(task))
        MultiSAETrainingRunner(cfg, override_dataset=dataset, override_saes=own).run()
        return task["train_tokens"]

    return unit, dict


def evaluation(task: dict[str, Any]) -> tuple[Any, Any]:
    """run_evals for each SAE with what fovea measures in one go: CE, KL, L0, explained variance; equal tokens."""
    dtype = {"dtype": task["dtype"]} if task["dtype"] != "float32" else {}
    model = load_model("AutoModelForCausalLM", task["model"], "cpu", dtype, [task["hook_name"]])
    saes = [SAE.load_from_disk(folder) for folder in task["saes"]]
    tokens = load_file(task["tokens"])["tokens"]
    metrics: dict[str, Any] = {}
    config = EvalConfig(
        batch_size_prompts=task["contexts_per_batch"],
        n_eval_reconstruction_batches=len(tokens) // task["contexts_per_batch"],
        n_eval_sparsity_variance_batches=len(tokens) // task["contexts_per_batch"],
        compute_kl=True,
        compute_ce_loss=True,
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
    )
    for sae in saes:
        sae.cfg.metadata.hook_name = task["hook_name"]

    def unit() -> int:
        for folder, sae in zip(task["saes"], saes, strict=True):
            found, _ = run_evals(sae, store(model, tokens, task), model, ActivationScaler(), config, verbose=False)
            metrics[Path(folder).name] = found
        return tokens.numel()

    def results() -> dict[str, Any]:
        return {
            "ce": {name: found["model_performance_preservation"]["ce_loss_with_sae"] for name, found in metrics.items()}
        }

    return unit, results


def store(model: Any, tokens: torch.Tensor, task: dict[str, Any]) -> ActivationsStore:
    """A store that gives out the very contexts that fovea evaluates on: a dataset that is tokenised already."""
    return ActivationsStore(
        model=model,
        dataset=datasets.Dataset.from_dict({"input_ids": tokens.tolist()}).with_format("torch"),
        streaming=False,
        hook_name=task["hook_name"],
        hook_head_index=None,
        context_size=tokens.shape[1],
        d_in=task["d_in"],
        n_batches_in_buffer=64,
        total_training_tokens=tokens.numel(),
        store_batch_size_prompts=task["contexts_per_batch"],
        train_batch_size_tokens=4096,
        prepend_bos=False,
        normalize_activations="none",
        device=torch.device("cpu"),
        dtype="float32",
    )
