"""The plainest service of embeddings, to hold a better one against: `SentenceTransformer.encode` behind FastAPI.

    python benchmarks/plain_service.py MODEL --port 8001 [--form tuned] [--name NAME]

It answers as OpenAI's embeddings do, and has nothing else: no batches over requests, no limits, no bounded queue. As
most people write it, uvicorn runs one worker as it comes with `pip install fastapi uvicorn`, and each of the forty
threads of a synchronous endpoint calls the model, which computes with all cores. The form "tuned" is what one gets from
such a program without writing another one: uvloop and httptools, as many threads as cores with one of PyTorch's each,
inference mode, and answers of JSON that pass no validation.
"""

import argparse
import base64
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import uvicorn
from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer


class Asked(BaseModel):
    """A request."""

    model: str = ""
    input: str | list[str]
    encoding_format: Literal["float", "base64"] = "float"
    input_type: Literal["query", "document"] = "document"


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder or name that SentenceTransformer loads")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--form", choices=("plain", "tuned"), default="plain")
    parser.add_argument("--name", help="of the model in answers; default: its folder's")
    arguments = parser.parse_args()
    name = arguments.name or Path(arguments.model).name
    make, how = FORMS[arguments.form]
    uvicorn.run(make(arguments.model, name), port=arguments.port, log_level="warning", access_log=False, **how)


def plain(path: str, name: str) -> FastAPI:
    """The service as most people write it."""
    app, model = FastAPI(), SentenceTransformer(path, device="cpu")
    add_its_name(app, name)

    @app.post("/v1/embeddings")
    def embeddings(asked: Asked) -> dict[str, Any]:
        return answered(model, name, asked)

    return app


def tuned(path: str, name: str) -> FastAPI:
    """The same program at its best."""
    cores = len(os.sched_getaffinity(0))

    @asynccontextmanager
    async def as_many_threads_as_cores(_: FastAPI) -> AsyncIterator[None]:
        current_default_thread_limiter().total_tokens = cores
        torch.set_num_threads(1)
        yield

    life: Callable[[FastAPI], AbstractAsyncContextManager[None]] = as_many_threads_as_cores
    app, model = FastAPI(lifespan=life), SentenceTransformer(path, device="cpu")
    add_its_name(app, name)

    @app.post("/v1/embeddings")
    def embeddings(asked: Asked) -> JSONResponse:
        with torch.inference_mode():
            return JSONResponse(answered(model, name, asked))

    return app


FORMS: dict[str, tuple[Callable[[str, str], FastAPI], dict[str, Any]]] = {
    "plain": (plain, {"loop": "asyncio", "http": "h11"}),
    "tuned": (tuned, {"loop": "uvloop", "http": "httptools"}),
}


def add_its_name(app: FastAPI, name: str) -> None:
    """Let it tell that it is ready and which process answers."""

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    @app.get("/version")
    async def version() -> dict[str, Any]:
        return {"name": name, "pid": os.getpid()}


def answered(model: SentenceTransformer, name: str, asked: Asked) -> dict[str, Any]:
    """What OpenAI's service would answer."""
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    encode = model.encode_query if asked.input_type == "query" else model.encode_document
    vectors = encode(texts, show_progress_bar=False)
    if asked.encoding_format == "base64":
        forms: list[Any] = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
    else:
        forms = vectors.tolist()
    data = [{"object": "embedding", "index": place, "embedding": form} for place, form in enumerate(forms)]
    usage = {"prompt_tokens": 0, "total_tokens": 0}
    return {"object": "list", "model": name, "created": int(time.time()), "data": data, "usage": usage}


if __name__ == "__main__":
    main()
