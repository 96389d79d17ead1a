"""Loss curves of small networks in PyTorch, from weights and mini-batches that both sides compute.

    pip install torch==2.15.0 numpy && python pytorch.py > pytorch.json

Weights and columns are numbers of split-mix, so that the file holds losses alone: of each mini-batch, before it is learned.
"""

import json

import torch

MASK = (1 << 64) - 1
STEP = 0x9E3779B97F4A7C15
STEPS, BATCH = 200, 32


def uniform(seed, count):
    """Numbers in [0, 1)."""
    numbers = []
    for at in range(1, count + 1):
        state = (seed + at * STEP) & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        numbers.append(((state ^ (state >> 31)) >> 11) / (1 << 53))
    return numbers


class Numbers:
    """Parameters in the order in which the network has them."""

    def __init__(self, count):
        self.values = [0.6 * number - 0.3 for number in uniform(1, count)]

    def take(self, *shape):
        count = torch.Size(shape).numel()
        taken, self.values = self.values[:count], self.values[count:]
        return torch.tensor(taken, dtype=torch.float32).reshape(shape)


def dense(numbers, inputs, outputs):
    layer = torch.nn.Linear(inputs, outputs)
    layer.weight.data = numbers.take(inputs, outputs).T.contiguous()
    layer.bias.data = numbers.take(outputs)
    return layer


def norm(numbers, kind, width):
    layer = kind(width)
    layer.weight.data = numbers.take(width)
    layer.bias.data = numbers.take(width)
    return layer


def mlp(numbers, sizes, activation, normalise=None):
    layers = []
    for inputs, outputs in zip(sizes, sizes[1:-1]):
        layers.append(dense(numbers, inputs, outputs))
        if normalise:
            layers.append(norm(numbers, normalise, outputs))
        layers.append(activation)
    layers.append(dense(numbers, *sizes[-2:]))
    return torch.nn.Sequential(*layers)


class Cross(torch.nn.Module):
    def __init__(self, numbers, width, crosses, hidden):
        super().__init__()
        self.crosses = torch.nn.ModuleList([dense(numbers, width, width) for _ in range(crosses)])
        self.deep = mlp(numbers, [width, hidden, 1], torch.nn.ReLU())

    def forward(self, x):
        node = x
        for cross in self.crosses:
            node = x * cross(node) + node
        return self.deep(node)


class Gru(torch.nn.Module):
    def __init__(self, numbers, steps, inputs, units):
        super().__init__()
        self.steps, self.gru = steps, torch.nn.GRU(inputs, units, batch_first=True)
        for part, size in (("ih", inputs), ("hh", units)):
            gates = [dense(numbers, size, units) for _ in range(3)]
            getattr(self.gru, f"weight_{part}_l0").data = torch.cat([gate.weight.data for gate in gates])
            getattr(self.gru, f"bias_{part}_l0").data = torch.cat([gate.bias.data for gate in gates])
        self.output = dense(numbers, units, 1)

    def forward(self, x):
        return self.output(self.gru(x.reshape(len(x), self.steps, -1))[0][:, -1])


def batches(columns):
    """Mini-batches with a number to tell, and a class of four."""
    values = uniform(2, STEPS * BATCH * columns)
    for step in range(STEPS):
        rows = []
        for row in range(BATCH):
            start = (step * BATCH + row) * columns
            rows.append([2 * value - 1 for value in values[start : start + columns]])
        target = [row[0] * row[1] + 0.5 * row[2] - row[3] * row[3] for row in rows]
        yield torch.tensor(rows, dtype=torch.float32), target


def curve(network, optimizer, loss, kind, columns, clip=None):
    losses = []
    network.train()
    for x, target in batches(columns):
        if kind == "number":
            y = torch.tensor(target, dtype=torch.float32)
        else:
            most = {"binary": 1, "classes": 3}[kind]
            y = torch.tensor([min(max(int((value + 1.5) * (most + 1) / 2), 0), most) for value in target])
        output = network(x)
        if kind == "binary":
            value = loss(output[:, 0], y.float())
        elif kind == "classes":
            value = loss(output, y)
        else:
            value = loss(output[:, 0], y)
        optimizer.zero_grad()
        value.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()
        losses.append(value.item())
    return losses


def main():
    torch.set_num_threads(1)
    half = lambda output, y: 0.5 * torch.nn.functional.mse_loss(output, y)
    optim, functional, nn = torch.optim, torch.nn.functional, torch.nn
    curves = {"torch": torch.__version__}

    network = mlp(Numbers(10_000), [8, 32, 16, 1], nn.ReLU())
    curves["mlp"] = curve(network, optim.AdamW(network.parameters(), 0.003, weight_decay=0.01), half, "number", 8)
    network = mlp(Numbers(10_000), [8, 32, 16, 4], nn.GELU("tanh"), nn.LayerNorm)
    optimizer = optim.SGD(network.parameters(), 0.03, momentum=0.9, weight_decay=0.001)
    curves["layer_norm"] = curve(network, optimizer, functional.cross_entropy, "classes", 8)
    network = mlp(Numbers(10_000), [8, 32, 16, 1], nn.SiLU(), nn.BatchNorm1d)
    optimizer = optim.Adagrad(network.parameters(), 0.02)
    curves["batch_norm"] = curve(network, optimizer, functional.binary_cross_entropy_with_logits, "binary", 8)
    network = Cross(Numbers(10_000), 8, 2, 16)
    optimizer = optim.AdamW(network.parameters(), 0.003, weight_decay=0.01)
    huber = lambda output, y: functional.huber_loss(output, y, delta=0.5)
    curves["cross"] = curve(network, optimizer, huber, "number", 8, clip=0.2)
    network = Gru(Numbers(10_000), 5, 3, 8)
    curves["gru"] = curve(network, optim.AdamW(network.parameters(), 0.003, weight_decay=0.01), half, "number", 15)
    print(json.dumps({name: value if name == "torch" else [round(x, 7) for x in value] for name, value in curves.items()}))


main()
