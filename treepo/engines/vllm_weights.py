"""What vLLM's worker must be able to do for treepo: take over another policy's weights, or seeds.

Runs inside vLLM, given as `worker_extension_cls`; also in servers that are started by hand.
"""

from __future__ import annotations

from typing import Any


class PolicyLoader:
    """A mixin of vLLM's worker. `collective_rpc("load_policy", ...)` calls it on every rank."""

    model_runner: Any

    def load_policy(self, folder: str) -> None:
        """Read the weights in `folder`, which must be of the same architecture."""
        self.model_runner.reload_weights(weights_path=folder)
        self.pack_embeddings()

    def pack_embeddings(self) -> None:
        """Mend what vLLM 0.32 leaves behind when it takes over weights.

        On CPU it multiplies with packed copies of them. The copy of an embedding that is tied to
        the output layer then points at freed memory, without an error, until it is packed again.
        """
        from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

        for module in self.model_runner.model.modules():
            if isinstance(module, VocabParallelEmbedding):
                module.quant_method.process_weights_after_loading(module)

    def reseed(self, seeds: dict[str, int]) -> None:
        """Make running requests draw from here on as new ones with these seeds would.

        seeds: by vLLM's own names of the requests. For vLLM's first model runner, the one on CPU.
        """
        for name, seed in seeds.items():
            generator = self.model_runner.requests[name].generator
            if generator is not None:  # none where the likeliest token is taken
                generator.manual_seed(seed)
