"""Parameters of engines that run in processes of their own: vLLM, started here or elsewhere."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from treepo.params.base import SECRET, Natural, Params, Positive


class ServingParams(Params):
    """What both kinds share: when trees go on, how much patience, how exact."""

    schedule: Literal["continuous", "barrier"] = Field(
        default="continuous",
        description="when a tree's next segments start: once its own last ones are done, or once "
        "those of all trees are, in lock-step as in the official code",
    )
    deadline: float = Field(
        default=300.0, gt=0, description="longest wait for a sign of life of the engine [s]"
    )
    retries: Natural = Field(
        default=2, description="new attempts in a row after an engine died, hung or sent garbage"
    )
    tolerance: float = Field(
        default=1e-3,
        gt=0,
        description="largest difference of a logprob from the model's after a load [nats]",
    )


class VLLMParams(ServingParams):
    """vLLM in a process that the run starts and ends."""

    block_size: Positive = Field(
        default=32,
        description="tokens a block of the key-value cache. Whole blocks are shared between paths: "
        "should divide the segment length; vLLM on CPU takes multiples of 32",
    )
    cache_gib: float = Field(
        default=2.0, gt=0, description="memory of the key-value cache [GiB]; bounds what is reused"
    )
    max_sequences: Positive = Field(default=256, description="paths decoded together at most")
    tensor_parallel: Positive = Field(
        default=1, description="devices that share each product; divides the model's heads"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="of the engine's weights; where it is not the trainer's, raise tolerance",
    )
    transfer: Literal["files", "ipc"] = Field(
        default="files",
        description="how vLLM takes over a policy: 'files': from its folder; 'ipc': from the "
        "memory of the GPU that both share (CUDA IPC)",
    )
    sleep: bool = Field(
        default=False,
        description="leave the GPU's memory to the trainer while no tree grows: weights wait in "
        "the CPU's, the key-value cache is given up; on a CPU nothing changes",
    )


class ServerParams(ServingParams):
    """vLLM servers that somebody else started (OpenAI-compatible, token ids in and out)."""

    deadline: float = Field(
        default=600.0, gt=0, description="longest wait for the answer to a segment [s]"
    )
    urls: tuple[str, ...] = Field(
        default=("http://127.0.0.1:8000",),
        min_length=1,
        description="base addresses; a tree stays with one as long as that answers",
    )
    model: str | None = Field(
        default=None, description="name of the served model; null: the only one that is served"
    )
    weights: Literal["load", "served"] = Field(
        default="load",
        description="'load': tell the servers to load each policy from its folder, which they must "
        "be able to read; 'served': sample what they serve, which must be the policy",
    )
    connections: Positive = Field(default=256, description="requests in flight at most")

    @field_validator("urls")
    @classmethod
    def _without_secrets(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        # Parameters are written into lineage, reports and trackers.
        for url in urls:
            if "@" in urlsplit(url).netloc:
                raise PydanticCustomError(
                    SECRET, "addresses must not hold a password; set VLLM_API_KEY instead"
                )
        return urls
