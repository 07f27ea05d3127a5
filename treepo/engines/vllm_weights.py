"""What vLLM's worker must be able to do for treepo: take over the weights of another policy.

Runs inside vLLM, given as `worker_extension_cls`; also in servers that are started by hand.
"""

from __future__ import annotations

from typing import Any


class PolicyLoader:
    """A mixin of vLLM's worker. `collective_rpc("load_policy", ...)` calls it on every rank."""

    model_runner: Any

    def load_policy(self, folder: str) -> None:
        """Read the weights in `folder`, which must be of the same architecture.

        On CPU, vLLM multiplies with packed copies of the weights. `reload_weights` leaves the
        copy of an embedding that is tied to the output layer pointing at freed memory, without
        an error (vLLM 0.32); packing it once more mends that.
        """
        from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

        self.model_runner.reload_weights(weights_path=folder)
        for module in self.model_runner.model.modules():
            if isinstance(module, VocabParallelEmbedding):
                module.quant_method.process_weights_after_loading(module)
