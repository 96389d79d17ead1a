"""A step of a network in PyTorch, on a GPU where there is one: prints the seconds of one, eager, compiled, and as a CUDA graph.

    python3 benches/peers/devices_pytorch.py COLUMNS ACTIVE CATEGORIES EMBEDDING BATCH HIDDEN...       # the bench `devices` does it

Rows begin in the memory of the processor, as ours do, pinned; only the step itself is done: forward, back, AdamW in its fused form.
Eager, embeddings have sparse gradients, which the others cannot have. What cannot be done here is `nan`.
"""

import sys
import time

import torch

STEPS = 16  # of rows there are
SECONDS = 2.0


class Network(torch.nn.Module):
    def __init__(self, columns, active, categories, embedding, hidden, sparse):
        super().__init__()
        self.table = torch.nn.Embedding(categories, embedding, sparse=sparse) if active else None
        sizes = [columns + active * embedding, *hidden]
        layers = []
        for inputs, outputs in zip(sizes, hidden):
            layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
        self.layers = torch.nn.Sequential(*layers, torch.nn.Linear(sizes[-1], 1))

    def forward(self, x, at):
        if self.table is not None:
            x = torch.cat([x, self.table(at).flatten(1)], 1)
        return self.layers(x)[:, 0]


def optimizers(network, on_gpu):
    more = {"capturable": True} if on_gpu else {}
    if network.table is None or not network.table.sparse:
        return [torch.optim.AdamW(network.parameters(), 1e-3, fused=True, **more)]
    dense = torch.optim.AdamW(network.layers.parameters(), 1e-3, fused=True, **more)
    return [dense, torch.optim.SparseAdam(network.table.parameters(), 1e-3)]


def seconds(form, device, columns, active, categories, embedding, batch, hidden):
    torch.manual_seed(0)
    on_gpu = device.type == "cuda"
    network = Network(columns, active, categories, embedding, hidden, form == "eager").to(device)
    rules = optimizers(network, on_gpu)
    x = torch.rand(STEPS * batch, columns) - 0.5
    at = torch.randint(categories or 1, (STEPS * batch, active))
    y = x.sum(1)
    rows = [part.pin_memory() if on_gpu else part for part in (x, at, y)]
    told = torch.compile(network) if form == "compiled" else network

    def step(x, at, y):
        loss = 0.5 * torch.nn.functional.mse_loss(told(x, at), y)
        for rule in rules:
            rule.zero_grad()
        loss.backward()
        for rule in rules:
            rule.step()

    def part(start):
        return [rows[start : start + batch] for rows in rows]

    if form == "graph":
        kept = [part.to(device) for part in part(0)]
        aside = torch.cuda.Stream()
        with torch.cuda.stream(aside):
            for _ in range(3):
                step(*kept)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step(*kept)

    def round_of_all():
        for start in range(0, STEPS * batch, batch):
            if form == "graph":
                for to, new in zip(kept, part(start)):
                    to.copy_(new, non_blocking=True)
                graph.replay()
            else:
                step(*(new.to(device, non_blocking=True) for new in part(start)))
        if on_gpu:
            torch.cuda.synchronize()

    round_of_all()
    rounds, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < SECONDS:
        round_of_all()
        rounds += 1
    return (time.perf_counter() - begun) / (rounds * STEPS)


def main():
    columns, active, categories, embedding, batch, *hidden = map(int, sys.argv[1:])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for form in ("eager", "compiled", "graph"):
        try:
            print(seconds(form, device, columns, active, categories, embedding, batch, hidden), flush=True)
        except Exception as error:  # whatever this installation lacks
            print(f"{form}: {error}".splitlines()[0], file=sys.stderr)
            print("nan", flush=True)


main()
