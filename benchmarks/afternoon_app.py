"""What a user of the formula might write in an afternoon: one model, its factors in memory, one tensor per response.

Run by plain uvicorn. The handler is a ``def``, so FastAPI calls it in its pool of threads.
"""

from __future__ import annotations

import os

import safetensors.torch
import torch
from fastapi import FastAPI, Response
from pydantic import BaseModel

ROWS, COLUMNS, L, R = (int(number) for number in os.environ["AFTERNOON_MODEL"].split())
HIDDEN = 128

torch.manual_seed(1)
P, Q, S = torch.randn(L, R), torch.randn(HIDDEN, R), torch.randn(HIDDEN, R)
T = torch.randn(ROWS * COLUMNS, R)

app = FastAPI()


class Request(BaseModel):
    w: list[float]


@app.post("/fabricate")
def fabricate(request: Request) -> Response:
    w = torch.tensor([request.w])  # (1, l)
    h = torch.matmul(torch.sigmoid(torch.matmul(torch.matmul(w, P), Q.T)), S)  # (1, r)
    W = torch.matmul(h, T.T).reshape(ROWS, COLUMNS)
    return Response(safetensors.torch.save({"x": W}), media_type="application/octet-stream")
