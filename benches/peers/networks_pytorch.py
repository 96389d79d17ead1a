"""A step of a network in PyTorch, on one thread of the processor: prints the CPU seconds of one, plain and fused.

    python3 benches/peers/networks_pytorch.py COLUMNS BATCH HIDDEN...       # the bench `networks` does it
"""

import sys
import time

import torch

ROWS = 8192


def main():
    columns, batch, *hidden = map(int, sys.argv[1:])
    torch.set_num_threads(1)
    for fused in (False, True):
        torch.manual_seed(0)
        layers, sizes = [], [columns, *hidden]
        for inputs, outputs in zip(sizes, hidden):
            layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
        network = torch.nn.Sequential(*layers, torch.nn.Linear(sizes[-1], 1))
        optimizer = torch.optim.AdamW(network.parameters(), 1e-3, fused=fused)
        x = torch.rand(ROWS, columns) - 0.5
        y = x.sum(1)

        def round_of_all():
            for start in range(0, ROWS, batch):
                loss = 0.5 * torch.nn.functional.mse_loss(network(x[start : start + batch])[:, 0], y[start : start + batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        round_of_all()
        rounds, start = 0, time.process_time()
        while time.process_time() - start < 0.5:
            round_of_all()
            rounds += 1
        print((time.process_time() - start) / (rounds * (ROWS // batch)))


main()
