"""Parameters of the engine that samples."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from treepo.params.base import Natural, Params, Positive
from treepo.params.serving import ServerParams, VLLMParams


class EngineParams(Params):
    """What samples the trees."""

    name: Literal["torch", "vllm", "server"] = Field(
        default="torch",
        description="which engine; 'torch': TorchEngine, 'vllm': vLLM, 'server': running vLLM "
        "servers",
    )
    device: str = Field(default="cpu", description="torch device")
    dtype: Literal["float32", "bfloat16"] | None = Field(
        default=None,
        description="of the engine's weights and cache; null: the policy's own. A narrower one "
        "makes the engine's logprobs differ from the trainer's",
    )
    rows: Positive | None = Field(
        default=None, description="trees decoded together at most; null: what the memory holds"
    )
    columns: Positive = Field(
        default=512,
        description="paths decoded together at most; a tree that has more by itself goes alone",
    )
    memory: float = Field(
        default=4.0, gt=0, description="for the keys and values of the trees in the batch [GiB]"
    )
    deterministic: bool = Field(
        default=False,
        description="a tree comes out bit for bit the same whatever trees share its batch (CPU)",
    )
    graphs: bool = Field(
        default=False,
        description="decode in fixed shapes, which CUDA replays as graphs; elsewhere it only costs",
    )
    threads: Natural = Field(
        default=0, description="CPU threads; 0: one a core. Part of what a result depends on"
    )
    vllm: VLLMParams = Field(default=VLLMParams(), description="of the engine 'vllm'")
    server: ServerParams = Field(default=ServerParams(), description="of the engine 'server'")

    @model_validator(mode="after")
    def _one_kind_of_shapes(self) -> EngineParams:
        if self.graphs and self.deterministic:
            raise ValueError(
                "graphs: their shapes hold all trees of the batch, and deterministic wants those "
                "of each tree alone; set one of the two"
            )
        return self

    @model_validator(mode="after")
    def _one_gpu_for_ipc(self) -> EngineParams:
        if self.name == "vllm" and self.vllm.transfer == "ipc":
            if not self.device.startswith("cuda"):
                raise ValueError(
                    f"vllm.transfer: 'ipc' shares a GPU's memory, and device is "
                    f"'{self.device}'; set it to cuda, or transfer to 'files'"
                )
            if self.vllm.tensor_parallel > 1:
                raise ValueError(
                    "vllm.transfer: 'ipc' reaches one GPU, not the "
                    f"{self.vllm.tensor_parallel} of vllm.tensor_parallel; set it to 'files'"
                )
        return self
