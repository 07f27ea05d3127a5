"""TRL's side: one step of GRPOTrainer is one iteration, 64 completions and one optimizer step.

Prints a JSON line: seconds of each step, those of generation, peak memory. Runs in TRL's own
environment (setup.sh): python grpo.py MODEL_FOLDER ITERATIONS THREADS wall|cpu
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from workload import LEARNING_RATE, PROMPT_TOKENS, PROMPTS, TOKENS, WIDTH, reward, texts

CLOCK = {"wall": time.perf_counter, "cpu": time.process_time}[sys.argv[4]]


class Clock(TrainerCallback):
    """Seconds of each step, generation included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """A step starts with its generation."""
        self.started = CLOCK()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """The optimizer has stepped."""
        self.seconds.append(CLOCK() - self.started)


class TimedTrainer(GRPOTrainer):
    """Says how long each round of generation and scoring took."""

    def __init__(self, **arguments: Any) -> None:
        self.generation: list[float] = []
        super().__init__(**arguments)

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        started = CLOCK()
        outputs = super()._generate_and_score_completions(inputs)
        self.generation.append(CLOCK() - started)
        return outputs


def rewards(completions: list[str], **_: Any) -> list[float]:
    return [reward(completion) for completion in completions]


def main() -> None:
    folder, iterations, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = [tokenizer.decode(tokenizer.encode(text)[:PROMPT_TOKENS]) for text in texts()]
    clock = Clock()
    with tempfile.TemporaryDirectory() as output:
        config = GRPOConfig(
            output_dir=output,
            per_device_train_batch_size=WIDTH,
            gradient_accumulation_steps=PROMPTS,
            num_generations=WIDTH,
            max_completion_length=TOKENS,
            generation_kwargs={"min_new_tokens": TOKENS},
            temperature=1.0,
            learning_rate=LEARNING_RATE,
            max_steps=iterations,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            model_init_kwargs={"dtype": "float32"},
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = TimedTrainer(
            model=folder,
            reward_funcs=rewards,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": prompts * iterations}),
            processing_class=tokenizer,
            callbacks=[clock],
        )
        trainer.train()
    lengths = [
        entry["completions/mean_length"]
        for entry in trainer.state.log_history
        if "completions/mean_length" in entry
    ]
    found = {
        "seconds": clock.seconds,
        "rollout": trainer.generation,
        "response_tokens": lengths,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
