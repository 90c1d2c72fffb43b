"""What one writes in ten minutes: FastAPI and Transformers, a call at a time. Run by uvicorn."""

import os
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI
from transformers import AutoModel, AutoTokenizer

torch.set_num_threads(1)
folder = Path(os.environ["MODEL"])
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
app = FastAPI()


@app.post("/v1/embeddings")
def embeddings(body: dict[str, Any]) -> dict[str, Any]:
    """Embed one text: mean pooling, length 1."""
    inputs = tokenizer(body["input"], truncation=True, max_length=256, return_tensors="pt")
    with torch.inference_mode():
        hidden = model(**inputs).last_hidden_state[0]
    vector = torch.nn.functional.normalize(hidden.mean(0), dim=0).tolist()
    return {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": vector}]}


@app.get("/readyz")
def readyz() -> str:
    """Answer as soon as the model is loaded."""
    return "ready"
