"""A program that loses its GPU: an id that no embedding has stops the device for the whole process."""

import sys
from pathlib import Path

import numpy as np
import torch

from inference.checkpoint import read_checkpoint
from inference.device import Device
from inference.encoder import load_encoder
from inference.errors import DeviceLost
from tests.inference.test_encoder import batch

encoder = load_encoder(read_checkpoint("m", Path(sys.argv[1])), Device(torch.device("cuda", 0)), torch.float16)
encoder.record_graphs(256)
for _ in range(2):
    try:
        encoder.launch(batch([np.full(9, 1_000_000, np.int32)])).wait()
    except DeviceLost as err:
        sys.stdout.write(f"lost: {str(err).splitlines()[0]}\n")
