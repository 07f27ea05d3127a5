"""Parameters of the engine that samples."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

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
    rows: Positive = Field(default=16, description="trees decoded together")
    threads: Natural = Field(
        default=0, description="CPU threads; 0: one a core. Part of what a result depends on"
    )
    vllm: VLLMParams = Field(default=VLLMParams(), description="of the engine 'vllm'")
    server: ServerParams = Field(default=ServerParams(), description="of the engine 'server'")
